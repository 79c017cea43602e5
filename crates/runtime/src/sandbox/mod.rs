//! What is done with sandboxes: create, start, stop, kill, pause, remove.

mod removal;

use std::time::{Duration, Instant};

use cofferdam_base::{LockFile, time::unix_time_ns};
use cofferdam_image::{ImageStore, Progress, ProgressEvent};
use cofferdam_proto::{NetworkChange, NetworkStatus, Request, Stage, StartMode, SupervisorMessage};
use cofferdam_types::{NetworkAttachment, SandboxId, SandboxSpec, SandboxStatus, Signal};

use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, lift},
        random,
        task::log_line,
    },
    client::{self, Connection},
    host::{
        admission,
        needs::{self, Need},
    },
    network,
    pool::{self, Claim},
    spec::{interpreters::AutoWarmUps, process},
    store::{
        Entry, RECORD_VERSION, RecordedImage, SandboxRecord, Store, config::Config,
        event::EventKind, images,
    },
};

/// What is done with the sandboxes of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sandboxes<'a> {
    pub(crate) store: &'a Store,
    pub(crate) images: &'a ImageStore,
    /// Whether each sandbox that starts is followed by a standby, whatever the settings say.
    pub(crate) standby_auto: bool,
}

impl Sandboxes<'_> {
    fn keeps_standby(&self) -> bool {
        if self.standby_auto {
            return true;
        }
        match Config::load(self.store.layout()) {
            Ok(config) => config.standby_auto(),
            Err(error) => {
                log_line(&format!("warning: {}", error.chain()));
                false
            }
        }
    }

    /// Makes a sandbox: finds or pulls its image, merges its defaults, claims its name.
    ///
    /// # Errors
    /// Of the image, the spec or the name.
    pub(crate) async fn create(
        &self,
        mut spec: SandboxSpec,
        progress: &dyn Progress,
    ) -> Result<Entry> {
        spec.keep_standby |= self.keeps_standby();
        admission::spec(&spec)?;
        let image = images::find_image(self.store.layout(), self.images, &spec, progress).await?;
        let rootfs = lift(self.images.rootfs(&image, progress))?;
        let id = SandboxId::from_random(random::bytes()?);
        network::publish_exposed(&mut spec.network, &image.config.exposed_ports);
        network::check(&spec.network)?;
        network::take_secret_values(id, &mut spec.network)?;
        let process = process::merge(&spec, &image.config, id)?;
        let (stop_signal, warning) = process::stop_signal(&spec, &image.config);
        if let Some(text) = warning {
            progress.event(ProgressEvent::Warning { text: &text });
        }
        let mut record = SandboxRecord {
            version: RECORD_VERSION,
            id,
            name: String::new(),
            created_ns: unix_time_ns(),
            image: RecordedImage {
                name: spec.image.clone(),
                id: image.id,
                manifest: image.manifest,
                rootfs: rootfs.path,
                disk_bytes: rootfs.disk_bytes,
                auto_warm_ups: AutoWarmUps::of(&spec, &image.config),
            },
            process,
            hostname: spec.hostname.clone().unwrap_or_else(|| id.short()),
            stop_signal,
            spec,
            forked_from: None,
        };
        let networks = self.store.networks();
        for asked in &record.spec.network.networks {
            networks.find(&asked.network)?;
        }
        self.store.insert_named(&mut record, |_| Ok(()))?;
        if let Err(error) = networks.places(&record) {
            // The first error is the one to report.
            let _ = self.store.remove(id);
            return Err(error);
        }
        self.store.note(&record, EventKind::Created);
        self.store.find(&id.to_string())
    }

    /// Starts a sandbox and waits until its workload runs.
    ///
    /// # Errors
    /// Why it did not start.
    pub(crate) async fn start(
        &self,
        entry: &Entry,
        mode: StartMode,
    ) -> Result<(Connection, SupervisorMessage)> {
        entry.expect_can_become(SandboxStatus::Starting)?;
        // Before a standby is asked, which would be lost with a start that fails.
        if let Err(error) = network::expect_free(&entry.record.spec.network) {
            if entry.record.spec.auto_remove && entry.state.starts == 0 {
                let _ = self
                    .store
                    .remove_unused(entry.record.id, &entry.record.name);
            }
            return Err(error);
        }
        let mode = StartMode {
            secrets: entry.record.secret_values()?,
            ..mode
        };
        let begin = Instant::now();
        let silent = match pool::claim(self.store, entry, &mode).await {
            Claim::Taken(taken) => return *taken,
            Claim::None => None,
            Claim::Silent => Some(stage("standby did not answer", begin.elapsed())),
        };
        let mode = StartMode {
            standby_was_silent: silent.is_some(),
            ..mode
        };
        let (connection, mut started) = client::start(self.store, entry, mode).await?;
        if let (Some(silent), SupervisorMessage::Started { timeline, .. }) = (silent, &mut started)
        {
            timeline.insert(0, silent);
        }
        Ok((connection, started))
    }

    /// Waits for a start that another command has under way.
    ///
    /// # Errors
    /// Why it did not start.
    pub(crate) async fn started(&self, entry: &Entry) -> Result<()> {
        client::request(self.store, entry, Request::Status)
            .await
            .map(drop)
    }

    /// Stops a sandbox; it is no error if it does not run.
    ///
    /// # Errors
    /// The supervisor's.
    pub(crate) async fn stop(&self, entry: &Entry, timeout: Option<Duration>) -> Result<()> {
        if !entry.state.status.is_live() {
            return Ok(());
        }
        let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        client::end(self.store, entry, Request::Stop { timeout_ms }).await
    }

    /// Stops a sandbox and starts it again. Restarts of one sandbox wait for each other: the lock
    /// is looked at again and again, so dropping the future ends the wait.
    ///
    /// # Errors
    /// Those of [`Self::stop`] and [`Self::start`]; [`ErrorKind::NotFound`] when it was removed
    /// meanwhile.
    pub(crate) async fn restart(
        &self,
        entry: &Entry,
        timeout: Option<Duration>,
    ) -> Result<(Connection, SupervisorMessage)> {
        /// The kernel has no event for a lock that its holder frees.
        const INTERVAL: Duration = Duration::from_millis(10);
        let id = entry.record.id;
        let now = || {
            let gone = || Error::new(ErrorKind::NotFound, "The sandbox was removed");
            self.store.load(id)?.ok_or_else(gone)
        };
        let _lock = loop {
            // Only one that is there gets a file.
            now()?;
            let path = self.store.layout().sandbox(id).restart_lock();
            let tried = LockFile::try_exclusive(&path);
            match tried.map_err(|error| io("Could not lock the sandbox", error))? {
                Some(lock) => break lock,
                None => tokio::time::sleep(INTERVAL).await,
            }
        };
        self.stop(&now()?, timeout).await?;
        self.start(&now()?, StartMode::default()).await
    }

    /// Changes the network of a sandbox, live or not; returns how it is if it is live.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`], [`ErrorKind::NotFound`], and those of a port.
    pub(crate) async fn change_network(
        &self,
        entry: &Entry,
        change: NetworkChange,
    ) -> Result<Option<NetworkStatus>> {
        if entry.state.status.is_live() {
            let request = Request::ChangeNetwork(Box::new(change));
            return network_status(client::request(self.store, entry, request).await?.1).map(Some);
        }
        let in_use = || {
            let what = format!(
                "Sandbox `{}` is being used by another command",
                entry.record.name
            );
            Error::new(ErrorKind::WrongState, what)
        };
        let id = entry.record.id;
        let _lock = self.store.try_lock(id)?.ok_or_else(in_use)?;
        // With the lock held nobody else changes it.
        let mut record = self.store.load(id)?.ok_or_else(in_use)?.record;
        let old = record.spec.network.clone();
        let planned = network::planned(&old, &old.publish, &change)?;
        record.spec.network = planned.spec.clone();
        Store::write_record(self.store.layout(), &record)?;
        let changes = planned.sentences(&old);
        if !changes.is_empty() {
            self.store
                .note(&record, EventKind::NetworkChanged { changes });
        }
        Ok(None)
    }

    /// Makes a sandbox a member of a named network, live or not.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is paused or has no interface, and when it is live and a
    /// member; as for a new sandbox's networks.
    pub(crate) async fn join_network(
        &self,
        entry: &Entry,
        asked: &NetworkAttachment,
    ) -> Result<()> {
        if !entry.state.status.is_live() {
            return self.store.networks().connect(entry, asked);
        }
        let NetworkAttachment {
            network,
            aliases,
            address,
        } = asked.clone();
        let request = Request::JoinNetwork {
            network,
            aliases,
            address,
        };
        client::request(self.store, entry, request).await.map(drop)
    }

    /// Ends a sandbox's membership of a named network, live or not.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is paused, and when the network is the only one of the
    /// sandbox and internal; [`ErrorKind::NotFound`].
    pub(crate) async fn leave_network(&self, entry: &Entry, network: &str) -> Result<()> {
        if !entry.state.status.is_live() {
            return self.store.networks().disconnect(entry, network);
        }
        let request = Request::LeaveNetwork(network.to_owned());
        client::request(self.store, entry, request).await.map(drop)
    }

    /// What is to be seen of the network of a live sandbox.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is not live; [`ErrorKind::InvalidSpec`] when it has none.
    pub(crate) async fn network(&self, entry: &Entry) -> Result<NetworkStatus> {
        network_status(
            client::request(self.store, entry, Request::Network)
                .await?
                .1,
        )
    }

    /// Sends a signal to a sandbox's workload; SIGKILL is waited for.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub(crate) async fn kill(&self, entry: &Entry, signal: Signal) -> Result<()> {
        let signal = signal.number();
        client::end(self.store, entry, Request::Kill { signal }).await
    }

    /// Stops a sandbox's processes and vCPUs where they are.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] unless it runs.
    pub(crate) async fn pause(&self, entry: &Entry) -> Result<()> {
        let backend = entry.state.backend.as_deref();
        needs::expect_of_live(self.store.layout(), backend, Need::Pause)?;
        client::request(self.store, entry, Request::Pause)
            .await
            .map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] unless it is paused.
    pub(crate) async fn unpause(&self, entry: &Entry) -> Result<()> {
        client::request(self.store, entry, Request::Unpause)
            .await
            .map(drop)
    }
}

fn network_status(answer: SupervisorMessage) -> Result<NetworkStatus> {
    match answer {
        SupervisorMessage::Network(status) => Ok(*status),
        _ => Err(Error::new(
            ErrorKind::Bug,
            "The supervisor answered something else",
        )),
    }
}

/// A stage of a start.
fn stage(name: &str, took: Duration) -> Stage {
    Stage {
        name: name.to_owned(),
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}
