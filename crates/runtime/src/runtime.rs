//! One store and everything that can be done with it. Each operation is passed on to the part that
//! does it. The SDK, the crate `cofferdam`, has the full documentation; here a name like `NotFound`
//! is one of [`crate::ErrorKind`].

mod networks;

use std::{
    io::{Read, Write},
    time::Duration,
};

use cofferdam_image::{ImageStore, Progress};
use cofferdam_proto::{Request, StartMode, SupervisorMessage};
use cofferdam_types::{Digest, ExitStatus, SandboxId, SandboxSpec, Signal, SnapshotId};

use crate::{
    base::error::{Error, Result, lift},
    client::{self, Connection},
    pool::{PoolInfo, PoolOptions, Pools},
    sandbox::Sandboxes,
    snapshot::{
        DamagedSnapshot, ForkOptions, ForkSource, Forked, Snapshot, SnapshotOptions, Snapshots,
    },
    store::{Choices, Entry, Store, layout::Layout},
    template::{self, TemplateInfo, Templates, WarmUp},
    usage::{DiskUsage, Usage},
};

/// The store of sandboxes and that of images.
#[derive(Debug)]
pub struct Runtime {
    store: Store,
    images: ImageStore,
    /// Whether each sandbox that starts is followed by a standby, whatever the settings say.
    standby_auto: bool,
}

/// Opening.
impl Runtime {
    /// Opens the stores by a program's choices and the environment. Fails when the home cannot be
    /// read or written.
    pub fn open(choices: Choices) -> Result<Self> {
        Self::with_layout(Layout::with(choices)?)
    }

    pub(crate) fn with_layout(layout: Layout) -> Result<Self> {
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

    const fn sandboxes(&self) -> Sandboxes<'_> {
        Sandboxes {
            store: &self.store,
            images: &self.images,
            standby_auto: self.standby_auto,
        }
    }

    const fn snapshots_of(&self) -> Snapshots<'_> {
        Snapshots {
            store: &self.store,
            images: &self.images,
        }
    }

    const fn templates_of(&self) -> Templates<'_> {
        Templates {
            store: &self.store,
            images: &self.images,
        }
    }

    const fn pools_of(&self) -> Pools<'_> {
        Pools {
            store: &self.store,
            images: &self.images,
        }
    }

    const fn usage(&self) -> Usage<'_> {
        Usage {
            store: &self.store,
            images: &self.images,
        }
    }
}

/// Sandboxes.
impl Runtime {
    /// Makes a sandbox: finds or pulls its image, merges its defaults, claims its name. Errors are
    /// those of the image, the spec or the name.
    pub async fn create(&self, spec: SandboxSpec, progress: &dyn Progress) -> Result<Entry> {
        self.sandboxes().create(spec, progress).await
    }

    /// The sandbox that `name` means. Fails with `NotFound` or `Ambiguous`.
    pub fn find(&self, name: &str) -> Result<Entry> {
        self.store.find(name)
    }

    /// Every sandbox, newest first. Errors are the index's.
    pub fn list(&self) -> Result<Vec<Entry>> {
        self.store.list()
    }

    /// Why those that [`Self::list`] leaves out cannot be read. Errors are the index's.
    pub fn damaged(&self) -> Result<Vec<Error>> {
        self.store.damaged()
    }

    /// Starts a sandbox and waits until its workload runs. The error says why it did not start.
    pub async fn start(
        &self,
        entry: &Entry,
        mode: StartMode,
    ) -> Result<(Connection, SupervisorMessage)> {
        self.sandboxes().start(entry, mode).await
    }

    /// Waits for a start that another command has under way. The error says why it did not start.
    pub async fn started(&self, entry: &Entry) -> Result<()> {
        self.sandboxes().started(entry).await
    }

    /// Stops a sandbox; it is no error if it does not run. Errors are the supervisor's.
    pub async fn stop(&self, entry: &Entry, timeout: Option<Duration>) -> Result<()> {
        self.sandboxes().stop(entry, timeout).await
    }

    /// Stops a sandbox and starts it again. Restarts of one sandbox wait for each other. Fails as
    /// [`Self::stop`] and [`Self::start`] do, and with `NotFound` when it was removed meanwhile.
    pub async fn restart(
        &self,
        entry: &Entry,
        timeout: Option<Duration>,
    ) -> Result<(Connection, SupervisorMessage)> {
        self.sandboxes().restart(entry, timeout).await
    }

    /// Sends a signal to a sandbox's workload; SIGKILL is waited for. Fails with `WrongState` when
    /// it does not run.
    pub async fn kill(&self, entry: &Entry, signal: Signal) -> Result<()> {
        self.sandboxes().kill(entry, signal).await
    }

    /// Stops a sandbox's processes and vCPUs where they are. Fails with `WrongState` unless it
    /// runs.
    pub async fn pause(&self, entry: &Entry) -> Result<()> {
        self.sandboxes().pause(entry).await
    }

    /// Lets them go on. Fails with `WrongState` unless it is paused.
    pub async fn unpause(&self, entry: &Entry) -> Result<()> {
        self.sandboxes().unpause(entry).await
    }

    /// Waits until a sandbox's workload has ended. The error says why it failed, if it did;
    /// `WrongState` if it never ran.
    pub async fn wait(&self, entry: &Entry) -> Result<ExitStatus> {
        client::wait(&self.store, entry).await
    }

    /// Removes a sandbox; with `force` it is killed first, also while it starts, and a damaged one
    /// goes too. Fails with `WrongState` when it runs and `force` is not set, or when other
    /// commands go on using it. It blocks for up to five seconds when a supervisor does not answer
    /// and is slow to die.
    pub async fn remove(&self, entry: &Entry, force: bool) -> Result<()> {
        self.sandboxes().remove(entry, force).await
    }

    /// Removes a sandbox whose files are damaged. Fails with `NotFound`; `WrongState` when a
    /// supervisor still holds it.
    pub fn remove_damaged(&self, name: &str) -> Result<()> {
        self.sandboxes().remove_damaged(name)
    }

    /// Asks a live sandbox's supervisor; returns its first answer, and the connection. Waits for a
    /// start that is under way. Fails with `WrongState` when it does not run, or does not run any
    /// more; `NotFound` when it was removed meanwhile; `Timeout` when its supervisor is stopped; or
    /// what the supervisor answers.
    pub async fn request(
        &self,
        entry: &Entry,
        request: Request,
    ) -> Result<(Connection, SupervisorMessage)> {
        client::request(&self.store, entry, request).await
    }

    /// What became of a sandbox whose supervisor was lost during a request; `lost`
    /// if it is still live.
    pub async fn what_became(&self, id: SandboxId, lost: Error) -> Error {
        client::what_became(&self.store, id, None, lost).await
    }
}

/// Snapshots and forks.
impl Runtime {
    /// Takes a snapshot of a sandbox. One that runs stands still for a moment and goes on. Fails
    /// with `WrongState`, `NameTaken`, `NoSpace` and those of the backend.
    pub async fn create_snapshot(
        &self,
        entry: &Entry,
        options: SnapshotOptions,
    ) -> Result<Snapshot> {
        self.snapshots_of().create(entry, options).await
    }

    /// The snapshot of a name, an id, or the unique start of an id. Fails with `NotFound`,
    /// `Ambiguous` or `BadSnapshot`.
    pub fn find_snapshot(&self, name: &str) -> Result<Snapshot> {
        self.snapshots_of().find(name)
    }

    /// Every snapshot that can be read, newest first. Errors are the file system's.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.snapshots_of().list()
    }

    /// The others: those that cannot be used. Errors are the file system's.
    pub fn damaged_snapshots(&self) -> Result<Vec<DamagedSnapshot>> {
        self.snapshots_of().damaged()
    }

    /// Removes a snapshot, also a damaged one. Sandboxes that came from it go on: their machines
    /// hold its memory open. Fails with `NotFound` or `Ambiguous`.
    pub fn remove_snapshot(&self, name: &str) -> Result<SnapshotId> {
        self.snapshots_of().remove(name)
    }

    /// Makes new sandboxes from a moment of a source. Of a live sandbox or a full snapshot they run
    /// on from there, each with an identity of its own; of a stopped one or a disk they have the
    /// disk and are started like any other. `made` is told of each as it is ready. Fails when
    /// nothing could be made. What came after the first fork is in [`Forked::failure`].
    pub async fn fork(
        &self,
        source: ForkSource<'_>,
        options: &ForkOptions,
        made: &mut (dyn FnMut(&Entry) + Send),
    ) -> Result<Forked> {
        self.snapshots_of().fork(source, options, made).await
    }

    /// Brings back the sandbox of a snapshot with its id and name; under another name only if it is
    /// gone. From a full snapshot it runs on from that moment; from a disk it is there to be
    /// started. What it has on its disk since is lost. Fails with `WrongState` when it is live;
    /// `NameTaken` when it is gone and another has its name; `BadSnapshot` and those of a start.
    pub async fn restore(&self, snapshot: &Snapshot, name: Option<&str>) -> Result<Entry> {
        self.snapshots_of().restore(snapshot, name).await
    }

    /// Writes a snapshot as one file, after a look whether it is what it was: no import takes
    /// another, and whoever exports may remove the original. Fails with `BadSnapshot`, those of the
    /// snapshot's files or of `output`. It blocks as long as compressing and writing take; use a
    /// blocking thread in a busy runtime.
    pub fn export_snapshot(
        &self,
        snapshot: &Snapshot,
        output: impl Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.snapshots_of().export(snapshot, output, progress)
    }

    /// Reads a snapshot from one file into the store, under its own name or another. Fails with
    /// `BadSnapshot` when the file is no snapshot, damaged, hostile, of a newer version or of
    /// another processor; `ImageNotFound` when the store lacks its image; `NameTaken`, `NoSpace`.
    /// It blocks as long as reading and checking take; use a blocking thread in a busy runtime.
    pub fn import_snapshot(
        &self,
        input: impl Read,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Snapshot> {
        self.snapshots_of().import(input, name, progress)
    }
}

/// Templates.
impl Runtime {
    /// Makes the template from which sandboxes of `spec`'s shape and image start, in place of the
    /// one that there is. With [`WarmUp::wait_for`] it holds `spec`'s workload running, and
    /// sandboxes with that very workload start from there. Errors are those of the image, the spec,
    /// the commands, or the host.
    pub async fn build_template(
        &self,
        spec: SandboxSpec,
        warm_up: &WarmUp,
        progress: &dyn Progress,
    ) -> Result<TemplateInfo> {
        self.templates_of().build(spec, warm_up, progress).await
    }

    /// Every template that can be used, newest first. Errors are the file system's.
    pub fn templates(&self) -> Result<Vec<TemplateInfo>> {
        self.templates_of().list()
    }

    /// Removes the templates that `name` means: one by the start of its key, or all of an image.
    /// Sandboxes that came from them go on. Fails with `NotFound`, `Ambiguous`.
    pub fn remove_templates(&self, name: &str) -> Result<Vec<String>> {
        self.templates_of().remove(name)
    }

    /// Removes the templates that nothing needs: those of images that are gone and, where there is
    /// no image and no sandbox, all others that starts have made. With `all` also every other one
    /// that the next start of its kind makes again. Gives what was removed. Fails when a store
    /// cannot be read, or a template not be removed.
    pub fn drop_unneeded_templates(&self, all: bool) -> Result<Vec<TemplateInfo>> {
        self.templates_of().drop_unneeded(all)
    }

    /// What all templates may take of the disk, in bytes; none without a limit. Fails with
    /// `InvalidSpec` when `COFFER_TEMPLATES_LIMIT` holds no size.
    pub fn template_limit_bytes(&self) -> Result<Option<u64>> {
        template::limit_bytes()
    }
}

/// Pools.
impl Runtime {
    /// Makes a pool of standbys for `spec`'s image and shape, and fills it. Errors are those of the
    /// image, the spec, the commands or the host; `NameTaken`.
    pub async fn create_pool(
        &self,
        spec: SandboxSpec,
        options: &PoolOptions,
        progress: &dyn Progress,
    ) -> Result<PoolInfo> {
        self.pools_of().create(spec, options, progress).await
    }

    /// Every pool.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolInfo> {
        self.pools_of().list()
    }

    /// Ends a pool's standbys and removes it. Sandboxes that claimed one go on. Fails with
    /// `NotFound`.
    pub async fn remove_pool(&self, name: &str) -> Result<()> {
        self.pools_of().remove(name).await
    }
}

/// The room that things take.
impl Runtime {
    /// What the store takes of the disk. Fails when a part of the store cannot be read. It blocks
    /// for one look at each file of the store and, for [`DiskUsage::held_open_bytes`], at each open
    /// file of the user's processes.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.usage().of_disk()
    }

    /// What sandbox or snapshot uses an image, for those who would remove it. Where that cannot be
    /// told, something does.
    #[must_use]
    pub fn image_user(&self, image: &Digest) -> Option<String> {
        self.usage().image_user(image)
    }
}
