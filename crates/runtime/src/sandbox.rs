//! What clients do with sandboxes: create, start, stop, kill, wait, remove, connect.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cofferdam_base::time::unix_time_ns;
use cofferdam_image::{Image, ImageStore, Progress, ProgressEvent, Reference};
use cofferdam_proto::{Request, Stage, StartMode, SupervisorMessage};
use cofferdam_types::{
    Digest, ExitStatus, Platform, PullPolicy, SandboxId, SandboxSpec, SandboxStatus, Signal,
};

use crate::{
    client::{Connection, launch},
    config::Config,
    error::{Error, ErrorKind, Result, io, lift},
    interpreters::Rehearsals,
    layout::Layout,
    pool::Claim,
    process, random,
    store::{Entry, RECORD_VERSION, RecordedImage, SandboxRecord, Store, random_name},
};

/// The store of sandboxes and that of images.
#[derive(Debug)]
pub struct Runtime {
    store: Store,
    images: ImageStore,
    /// Whether each sandbox that starts is followed by a standby, whatever the settings say.
    standby_auto: bool,
}

impl Runtime {
    /// Opens the stores by environment.
    ///
    /// # Errors
    /// When the home cannot be read or written.
    pub fn open() -> Result<Self> {
        Self::with_layout(Layout::from_environment()?)
    }

    /// Opens the stores below `home`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open_at(home: &Path) -> Result<Self> {
        Self::with_layout(Layout::at(home)?)
    }

    /// Opens the stores below `home` with the QEMU program `qemu`; what is `None` comes from the
    /// environment.
    ///
    /// # Errors
    /// When the home cannot be read or written, or the program has no path.
    pub fn open_with(home: Option<&Path>, qemu: Option<&Path>) -> Result<Self> {
        let mut layout = match home {
            Some(home) => Layout::at(home)?,
            None => Layout::from_environment()?,
        };
        if let Some(program) = qemu {
            // What is started works in other directories.
            let program = std::path::absolute(program)
                .map_err(|error| io("Could not resolve the QEMU program's path", error))?;
            layout = layout.with_qemu(program);
        }
        Self::with_layout(layout)
    }

    fn with_layout(layout: Layout) -> Result<Self> {
        let images = lift(ImageStore::open(&layout.images()))?;
        Ok(Self {
            store: Store::open(layout)?,
            images,
            standby_auto: false,
        })
    }

    /// Has each sandbox that is made here followed by an automatic standby, whatever the settings
    /// say.
    #[must_use]
    pub fn with_standby_auto(self, standby_auto: bool) -> Self {
        Self {
            standby_auto,
            ..self
        }
    }

    fn keeps_standby(&self) -> bool {
        if self.standby_auto {
            return true;
        }
        match Config::load(self.store.layout()) {
            Ok(config) => config.standby_auto(),
            Err(error) => {
                crate::supervisor::log_line(&format!("warning: {}", error.chain()));
                false
            }
        }
    }

    /// The store of sandboxes.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The store of images.
    #[must_use]
    pub const fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Makes a sandbox: finds or pulls its image, merges its defaults, claims its name.
    ///
    /// # Errors
    /// Of the image, the spec or the name.
    pub async fn create(&self, mut spec: SandboxSpec, progress: &dyn Progress) -> Result<Entry> {
        spec.keep_standby |= self.keeps_standby();
        crate::check::spec(&spec)?;
        let image = self.find_image(&spec, progress).await?;
        let rootfs = lift(self.images.rootfs(&image, progress))?;
        let id = SandboxId::from_random(random::bytes()?);
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
                rehearsals: Rehearsals::of(&spec, &image.config),
            },
            process,
            hostname: spec.hostname.clone().unwrap_or_else(|| id.short()),
            stop_signal,
            spec,
            forked_from: None,
        };
        self.insert_with(&mut record, |_| Ok(()))?;
        self.find(&id.to_string())
    }

    /// Claims a name for a sandbox and makes its directory, into which `fill` puts more.
    pub(crate) fn insert_with(
        &self,
        record: &mut SandboxRecord,
        fill: impl Fn(&Path) -> Result<()>,
    ) -> Result<()> {
        if let Some(name) = record.spec.name.clone() {
            record.name = name;
            return self.store.insert(record, fill).map(drop);
        }
        // Of two million names one is free soon; the bound is for a broken index.
        for _ in 0..100 {
            record.name = random_name(random::bytes()?);
            match self.store.insert(record, &fill) {
                Err(error) if error.kind() == ErrorKind::NameTaken => {}
                other => return other.map(drop),
            }
        }
        Err(Error::new(ErrorKind::NameTaken, "No name is free").hint("Give one with `--name`"))
    }

    pub(crate) async fn find_image(
        &self,
        spec: &SandboxSpec,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let platform = spec.platform.clone().unwrap_or_else(Platform::host);
        if !platform.runs_on(&Platform::host()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("Images for {platform} do not run on {}", Platform::host()),
            ));
        }
        let found = if spec.pull == PullPolicy::Always {
            None
        } else {
            lift(self.images.resolve(&spec.image, &platform))?
        };
        if let Some(image) = found {
            return Ok(image);
        }
        if spec.pull == PullPolicy::Never {
            return Err(Error::new(
                ErrorKind::ImageNotFound,
                format!(
                    "There is no image `{}` for {platform} in the store",
                    spec.image
                ),
            )
            .hint("Pull or load it, or allow that with `--pull missing`"));
        }
        let reference: Reference = lift(spec.image.parse())?;
        let options = cofferdam_image::PullOptions::default();
        lift(
            self.images
                .pull(&reference, &platform, &options, progress)
                .await,
        )
    }

    /// The sandbox that `name` means.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Ambiguous`].
    pub fn find(&self, name: &str) -> Result<Entry> {
        self.store.find(name)
    }

    /// Every sandbox, newest first.
    ///
    /// # Errors
    /// The index's.
    pub fn list(&self) -> Result<Vec<Entry>> {
        self.store.list()
    }

    /// Why those that [`Self::list`] leaves out cannot be read.
    ///
    /// # Errors
    /// The index's.
    pub fn damaged(&self) -> Result<Vec<Error>> {
        self.store.damaged()
    }

    /// What sandbox or snapshot uses an image, for those who would remove it. Where that cannot be
    /// told, something does.
    #[must_use]
    pub fn image_user(&self, image: &Digest) -> Option<String> {
        let unknown = || Some("a sandbox or snapshot that cannot be read".to_owned());
        let (Ok(sandboxes), Ok(snapshots)) = (self.store.list(), self.snapshots()) else {
            return unknown();
        };
        let mut records = sandboxes.iter().map(|entry| &entry.record);
        if let Some(user) = records.find(|record| record.image.id == *image) {
            return Some(format!("the sandbox `{}`", user.name));
        }
        if let Some(pool) = self.pool_of_image(image) {
            return Some(format!(
                "the pool `{pool}` (remove it with `coffer pool rm {pool}`)"
            ));
        }
        let mut snapshots = snapshots.iter();
        if let Some(user) = snapshots.find(|found| found.manifest.sandbox.image.id == *image) {
            return Some(format!("the snapshot `{}`", user.label()));
        }
        // One of another version of this program is sound.
        let foreign = |error: &Error| error.kind() == ErrorKind::Unsupported;
        match self.store.damaged() {
            Ok(damaged) if !damaged.iter().any(foreign) => None,
            _ => unknown(),
        }
    }

    /// Starts a sandbox and waits until its workload runs.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn start(
        &self,
        entry: &Entry,
        mode: StartMode,
    ) -> Result<(Connection, SupervisorMessage)> {
        entry.expect_can_become(SandboxStatus::Starting)?;
        let begin = Instant::now();
        let claim = self.claim(entry, mode).await;
        let silent = match claim {
            Claim::Taken(taken) => return *taken,
            Claim::None => None,
            Claim::Silent => Some(stage("standby did not answer", begin.elapsed())),
        };
        let launched = launch(self.store.layout(), entry.record.id, Request::Start(mode)).await;
        if launched.is_err() && entry.record.spec.auto_remove {
            // No supervisor will do it. The first error is the one to report.
            let _ = self.remove_files(entry.record.id, &entry.record.name);
        }
        let mut connection = launched?;
        let mut started = match connection.answer().await {
            // It was killed, or removed by force.
            Err(error) if error.kind() == ErrorKind::SupervisorLost => {
                return Err(self.what_became(entry.record.id, error).await);
            }
            answer => answer?,
        };
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
    pub async fn started(&self, entry: &Entry) -> Result<()> {
        self.request(entry, Request::Status).await.map(drop)
    }

    /// Stops a sandbox; it is no error if it does not run.
    ///
    /// # Errors
    /// The supervisor's.
    pub async fn stop(&self, entry: &Entry, timeout: Option<Duration>) -> Result<()> {
        if !entry.state.status.is_live() {
            return Ok(());
        }
        let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        self.end(entry, Request::Stop { timeout_ms }).await
    }

    /// Sends a signal to a sandbox's workload; SIGKILL is waited for.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub async fn kill(&self, entry: &Entry, signal: Signal) -> Result<()> {
        let signal = signal.number();
        self.end(entry, Request::Kill { signal }).await
    }

    /// Stops a sandbox's processes and vCPUs where they are.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] unless it runs.
    pub async fn pause(&self, entry: &Entry) -> Result<()> {
        self.request(entry, Request::Pause).await.map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] unless it is paused.
    pub async fn unpause(&self, entry: &Entry) -> Result<()> {
        self.request(entry, Request::Unpause).await.map(drop)
    }

    /// Asks for what is done as well when the sandbox has ended meanwhile.
    async fn end(&self, entry: &Entry, request: Request) -> Result<()> {
        match self.try_request(entry, request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::SupervisorLost => {
                match self.after_loss(entry.record.id).await? {
                    Some(entry) if entry.state.status.is_live() => Err(error),
                    _ => Ok(()),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until a sandbox's workload has ended.
    ///
    /// # Errors
    /// Why it failed, if it did; [`ErrorKind::WrongState`] if it never ran.
    pub async fn wait(&self, entry: &Entry) -> Result<ExitStatus> {
        if entry.state.status.is_live() {
            match self.try_request(entry, Request::Wait).await {
                Ok((_, SupervisorMessage::Exited { status })) => return Ok(status),
                Ok(_) => {
                    let what = "The supervisor answered something else";
                    return Err(Error::new(ErrorKind::Bug, what));
                }
                Err(error) if error.kind() != ErrorKind::SupervisorLost => return Err(error),
                // It may have ended between the look and the question.
                Err(_) => {}
            }
        }
        let gone = || Error::new(ErrorKind::NotFound, "The sandbox was removed");
        let ended = self.after_loss(entry.record.id).await?;
        let state = ended.ok_or_else(gone)?.state;
        match (state.exit, state.failure) {
            (Some(status), _) => Ok(status),
            (None, Some(failure)) => Err(failure.into_error()),
            (None, None) => Err(Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{}` is {}", entry.record.name, state.status),
            )),
        }
    }
}

/// A stage of a start.
fn stage(name: &str, took: Duration) -> Stage {
    Stage {
        name: name.to_owned(),
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}
