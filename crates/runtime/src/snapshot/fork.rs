//! Forks: new sandboxes from a moment of another, or from a snapshot.

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{IdentityCause, Request, StartMode};
use cofferdam_types::{NetworkAttachment, NetworkSpec, SandboxId, SandboxSpec, SnapshotId};

use super::{
    Snapshot, SnapshotKind, Snapshots, Watcher,
    captured::CapturedState,
    changes::{ForkChanges, numbered},
    restore::is_same,
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result},
        random,
    },
    client::{Connection, launch},
    store::{
        Entry, EventKind, ForkOrigin, SandboxRecord, networks::check_aliases,
        snapshot::machine_files,
    },
};

/// Most forks of one call: more is a slip of the finger.
const MAX_COUNT: u32 = 10_000;

/// How many forks come up at the same time: more than the processors of a small host gain
/// nothing, and each holds memory that is not yet accounted for.
const BATCH: usize = 16;

/// What is forked.
#[derive(Clone, Copy, Debug)]
pub enum ForkSource<'a> {
    /// A sandbox as it is now.
    Sandbox(&'a Entry),
    /// A snapshot.
    Snapshot(&'a Snapshot),
}

/// How to fork.
#[derive(Clone, Debug)]
pub struct ForkOptions {
    /// Name of the fork; of several, their names' common start.
    pub name: Option<String>,
    /// How many.
    pub count: u32,
    /// What is to differ from the source.
    pub changes: ForkChanges,
    /// Take only the disk; the forks are started like any other sandbox.
    pub disk_only: bool,
    /// Who is told how far the capture of a sandbox has come.
    pub watcher: Watcher,
}

impl Default for ForkOptions {
    fn default() -> Self {
        Self {
            name: None,
            count: 1,
            changes: ForkChanges::default(),
            disk_only: false,
            watcher: Watcher::default(),
        }
    }
}

/// What became of a fork.
#[derive(Debug)]
pub struct Forked {
    /// The new sandboxes. All of them can be used.
    pub made: Vec<Entry>,
    /// How long the source stood still, in microseconds; none if it did not run.
    pub pause_us: Option<u64>,
    /// Why there are not as many as were asked for.
    pub failure: Option<Error>,
}

impl Snapshots<'_> {
    /// Makes new sandboxes from a moment of a source. Of a live sandbox or a full snapshot they
    /// run on from there, each with an identity of its own; of a stopped one or a disk they have
    /// the disk and are started like any other. `made` is told of each as it is ready.
    ///
    /// # Errors
    /// When nothing could be made. What came after the first fork is in [`Forked::failure`].
    pub(crate) async fn fork(
        &self,
        source: ForkSource<'_>,
        options: &ForkOptions,
        made: &mut (dyn FnMut(&Entry) + Send),
    ) -> Result<Forked> {
        check_options(options)?;
        options.changes.expect_free_ports()?;
        let of = match source {
            ForkSource::Sandbox(entry) => entry.record.id,
            ForkSource::Snapshot(snapshot) => snapshot.manifest.sandbox.id,
        };
        self.expect_free_names(options, of)?;
        match source {
            ForkSource::Snapshot(snapshot) => {
                let part = options.disk_only.then(|| snapshot.disk_only());
                let snapshot = part.as_ref().unwrap_or(snapshot);
                let is_live = snapshot.manifest.kind == SnapshotKind::Full;
                options
                    .changes
                    .check(&snapshot.manifest.sandbox.spec, is_live)?;
                snapshot.expect_untouched().await?;
                if snapshot.manifest.kind == SnapshotKind::Full {
                    self.expect_same_machine(&snapshot.manifest)?;
                }
                let moment = CapturedState {
                    dir: snapshot.dir().to_owned(),
                    machine: snapshot.machine_files(),
                    cause: IdentityCause::Fork,
                };
                let mut record = self.repin(&snapshot.manifest.sandbox)?;
                record.spec.network.networks =
                    self.networks_of_forks(&record, snapshot.manifest.imported, options)?;
                let origin = ForkOrigin {
                    sandbox: record.id,
                    snapshot: Some(snapshot.manifest.id),
                    index: 0,
                };
                let forks = self.make_forks(&record, &origin, &moment, options, made);
                forks.await.into_result(None)
            }
            ForkSource::Sandbox(entry) => self.fork_sandbox(entry, options, made).await,
        }
    }

    async fn fork_sandbox(
        &self,
        entry: &Entry,
        options: &ForkOptions,
        made: &mut (dyn FnMut(&Entry) + Send),
    ) -> Result<Forked> {
        let is_live = entry.state.status.is_live() && !options.disk_only;
        options.changes.check(&entry.record.spec, is_live)?;
        let mut parent = entry.record.clone();
        parent.spec.network.networks = self.networks_of_forks(&parent, false, options)?;
        crate::host::room::expect_for_fork(self.store.layout(), 0)?;
        let staging = self.staging(SnapshotId::from_random(random::bytes()?))?;
        let kind = options.disk_only.then_some(SnapshotKind::Disk);
        let capture = self.capture(entry, kind, staging.path());
        let captured = options.watcher.during(staging.path(), capture).await?;
        let moment = CapturedState {
            dir: staging.path().to_owned(),
            machine: (captured.kind == SnapshotKind::Full).then(|| machine_files(staging.path())),
            cause: IdentityCause::Fork,
        };
        let origin = ForkOrigin {
            sandbox: entry.record.id,
            snapshot: None,
            index: 0,
        };
        let forks = self.make_forks(&parent, &origin, &moment, options, made);
        // The machines hold the memory open; its name is not needed any more.
        forks.await.into_result(captured.pause_us)
    }

    /// The networks of a parent's forks: where the parent is now. The parent's aliases stay with it,
    /// the forks have those of `options` together, and each fork has addresses of its own. An id alone does not say that the sandbox here is the
    /// parent, and a stranger's snapshot brings nobody onto a network.
    fn networks_of_forks(
        &self,
        parent: &SandboxRecord,
        imported: bool,
        options: &ForkOptions,
    ) -> Result<Vec<NetworkAttachment>> {
        let mut networks = match self.store.load(parent.id)? {
            _ if imported => Vec::new(),
            Some(there) if !is_same(&there.record, parent) => Vec::new(),
            there => {
                let networks = self.store.networks();
                networks.for_fork(parent, there.is_some())?
            }
        };
        let aliases = &options.changes.network_aliases;
        if networks.is_empty() && !aliases.is_empty() {
            let what = "An alias is a name on a named network, and the source is on none";
            return Err(Error::new(ErrorKind::InvalidSpec, what)
                .hint("Leave the alias out, and connect the fork to a network"));
        }
        for network in &mut networks {
            network.aliases.clone_from(aliases);
            check_aliases(network)?;
        }
        Ok(networks)
    }

    async fn make_forks(
        &self,
        parent: &SandboxRecord,
        origin: &ForkOrigin,
        moment: &CapturedState,
        options: &ForkOptions,
        made: &mut (dyn FnMut(&Entry) + Send),
    ) -> Forks {
        let mut forks = Forks::default();
        let mut next = 1;
        while next <= options.count && forks.failure.is_none() {
            let mut batch = Vec::new();
            while next <= options.count && batch.len() < BATCH && forks.failure.is_none() {
                let room = crate::host::room::expect_for_fork(self.store.layout(), batch.len());
                let begun = match room {
                    Ok(()) => self.begin_fork(parent, origin, moment, options, next).await,
                    Err(error) => Err(error),
                };
                match begun {
                    Ok(begun) => batch.push(begun),
                    Err(error) => forks.failure = Some(error),
                }
                next += 1;
            }
            for (id, connection) in batch {
                match self.finish_fork(id, connection).await {
                    Ok(entry) => {
                        made(&entry);
                        forks.made.push(entry);
                    }
                    Err(error) => forks.failure = forks.failure.or(Some(error)),
                }
            }
        }
        forks
    }

    /// Makes a fork's directory and, if it is to run, starts its supervisor.
    async fn begin_fork(
        &self,
        parent: &SandboxRecord,
        origin: &ForkOrigin,
        moment: &CapturedState,
        options: &ForkOptions,
        number: u32,
    ) -> Result<(SandboxId, Option<Connection>)> {
        let name = |start: &String| numbered(start, number, options.count);
        let mut record = child(parent, origin, options.name.as_ref().map(name), number)?;
        let is_live = moment.machine.is_some();
        options
            .changes
            .apply(&mut record, is_live, number, options.count);
        let secrets = match is_live {
            true => record.secret_values()?,
            false => Vec::new(),
        };
        self.store
            .insert_named(&mut record, |dir| moment.place(dir))?;
        let (source, snapshot) = (origin.sandbox, origin.snapshot);
        self.store
            .note(&record, EventKind::Forked { source, snapshot });
        if moment.machine.is_none() {
            return Ok((record.id, None));
        }
        let request = Request::Start(StartMode {
            secrets,
            ..StartMode::default()
        });
        match launch(self.store.layout(), record.id, request).await {
            Ok(connection) => Ok((record.id, Some(connection))),
            Err(error) => {
                self.discard(record.id);
                Err(error)
            }
        }
    }

    async fn finish_fork(&self, id: SandboxId, connection: Option<Connection>) -> Result<Entry> {
        if let Some(mut connection) = connection
            && let Err(error) = connection.answer().await
        {
            drop(connection);
            self.discard(id);
            return Err(error);
        }
        self.store.find(&id.to_string())
    }

    /// A fork that did not come up is nobody's sandbox.
    fn discard(&self, id: SandboxId) {
        // Its supervisor lets go of it a moment after its answer; what is left then is a failed
        // sandbox with its reason.
        let _ = self.store.remove(id);
    }

    fn expect_free_names(&self, options: &ForkOptions, source: SandboxId) -> Result<()> {
        let Some(name) = &options.name else {
            return Ok(());
        };
        let names = (1..=options.count).map(|number| numbered(name, number, options.count));
        for name in names {
            if self.store.is_taken(&name)? {
                let what = format!("The name `{name}` is taken by another sandbox");
                let holder = self.store.find(&name).map(|entry| entry.record.id);
                let hint = match holder.is_ok_and(|id| id == source) {
                    true => "It is the source; choose another name with `-n`".to_owned(),
                    false => format!(
                        "Remove it with `coffer rm {name}`, or choose another name with `-n`"
                    ),
                };
                return Err(Error::new(ErrorKind::NameTaken, what).hint(hint));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Forks {
    made: Vec<Entry>,
    failure: Option<Error>,
}

impl Forks {
    fn into_result(self, pause_us: Option<u64>) -> Result<Forked> {
        match (self.made.is_empty(), self.failure) {
            (true, Some(error)) => Err(error),
            (_, failure) => Ok(Forked {
                made: self.made,
                pause_us,
                failure,
            }),
        }
    }
}

fn check_options(options: &ForkOptions) -> Result<()> {
    let invalid = |what: String| Err(Error::new(ErrorKind::InvalidSpec, what));
    if !(1..=MAX_COUNT).contains(&options.count) {
        return invalid(format!(
            "`{}` forks are not between 1 and {MAX_COUNT}",
            options.count
        ));
    }
    let valid = |name: &str| {
        let digits = if options.count == 1 {
            0
        } else {
            1 + options.count.to_string().len()
        };
        cofferdam_types::valid_name(name) && name.len() + digits <= 63
    };
    options.changes.check_ports(options.count)?;
    match (&options.name, &options.changes.hostname) {
        (Some(name), _) if !valid(name) => invalid(format!("`{name}` is not a sandbox name")),
        (_, Some(name)) if !valid(name) => invalid(format!("`{name}` is not a host name")),
        _ => Ok(()),
    }
}

/// The record of a fork: all of its parent's but who it is.
fn child(
    parent: &SandboxRecord,
    origin: &ForkOrigin,
    name: Option<String>,
    index: u32,
) -> Result<SandboxRecord> {
    let id = SandboxId::from_random(random::bytes()?);
    let spec = SandboxSpec {
        name,
        // Two machines of one name would be taken for each other.
        hostname: None,
        // The parent has the ports of the host, and writes the capture.
        network: NetworkSpec {
            publish: Vec::new(),
            publish_all: false,
            mac: None,
            capture: None,
            ..parent.spec.network.clone()
        },
        ..parent.spec.clone()
    };
    Ok(SandboxRecord {
        id,
        name: String::new(),
        created_ns: unix_time_ns(),
        spec,
        hostname: id.short(),
        forked_from: Some(ForkOrigin {
            index,
            ..origin.clone()
        }),
        ..parent.clone()
    })
}
