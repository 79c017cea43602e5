//! The store: where sandboxes and images come from.

use std::{path::Path, sync::Arc};

use cofferdam_runtime::{Choices, Runtime, doctor::HostReport, image::Progress};
use cofferdam_types::{Digest, SandboxId, SandboxSpec, SandboxStatus};

use crate::{
    CofferOptions, DiskUsage, Error, ErrorKind, ForkOptions, Forks, Images, Networks, Pools,
    Result, Sandbox, SandboxInfo, Settings, Snapshots, Templates,
};

/// An open store of images and sandboxes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Coffer {
    pub(crate) runtime: Arc<Runtime>,
}

impl Coffer {
    /// Opens the user's store: `COFFER_HOME`, else `/var/lib/cofferdam` for root and
    /// `~/.local/share/cofferdam` for others. What killed processes left is cleaned up.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn open() -> Result<Self> {
        Ok(Self {
            runtime: Arc::new(Runtime::open(Choices::default())?),
        })
    }

    /// Opens the store below `home`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open_at(home: &Path) -> Result<Self> {
        let mut choices = Choices::default();
        choices.home = Some(home.to_owned());
        Ok(Self {
            runtime: Arc::new(Runtime::open(choices)?),
        })
    }

    /// Opens a store with other choices than the environment's.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open_with(options: &CofferOptions) -> Result<Self> {
        let runtime = Runtime::open(options.choices.clone())?;
        Ok(Self {
            runtime: Arc::new(runtime.with_standby_auto(options.standby_auto)),
        })
    }

    /// The store's directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.runtime.store().layout().home()
    }

    /// Makes a sandbox, pulling its image as `spec.pull` says. It does not run yet.
    ///
    /// # Errors
    /// Of the image, the spec, or the name ([`crate::ErrorKind::NameTaken`]).
    pub async fn create(&self, spec: SandboxSpec, progress: &dyn Progress) -> Result<Sandbox> {
        let entry = self.runtime.create(spec, progress).await?;
        Ok(Sandbox::new(self.clone(), entry))
    }

    /// The sandbox of a name, an id, or the unique start of an id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] or [`crate::ErrorKind::Ambiguous`].
    pub fn sandbox(&self, name: &str) -> Result<Sandbox> {
        Ok(Sandbox::new(self.clone(), self.runtime.find(name)?))
    }

    /// Removes the sandbox of a name or id; with `force` also one that runs or whose files are
    /// damaged.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::WrongState`].
    pub async fn remove(&self, name: &str, force: bool) -> Result<()> {
        match self.sandbox(name) {
            Ok(sandbox) => sandbox.remove(force).await,
            Err(error) if force && error.kind() == ErrorKind::Io => {
                self.runtime.remove_damaged(name)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes all sandboxes that have ended; one that was never started stays. Returns their ids.
    ///
    /// # Errors
    /// Of the first that cannot be removed.
    pub async fn prune_sandboxes(&self) -> Result<Vec<SandboxId>> {
        let mut gone = Vec::new();
        for info in self.sandboxes()? {
            if matches!(info.status, SandboxStatus::Stopped | SandboxStatus::Failed) {
                self.remove(&info.id.to_string(), false).await?;
                gone.push(info.id);
            }
        }
        Ok(gone)
    }

    /// Forks the sandbox or the snapshot of a name or id; see [`Sandbox::fork`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Ambiguous`] when a sandbox and a snapshot have the
    /// name; those of the fork.
    pub async fn fork(
        &self,
        source: &str,
        options: &ForkOptions,
        made: impl FnMut(&Sandbox) + Send,
    ) -> Result<Forks> {
        let is_missing = |error: &Error| error.kind() == ErrorKind::NotFound;
        let sandbox = match self.sandbox(source) {
            Err(error) if is_missing(&error) => None,
            found => Some(found?),
        };
        let snapshot = match self.snapshots().get(source) {
            Err(error) if is_missing(&error) || sandbox.is_some() => None,
            found => Some(found?),
        };
        match (sandbox, snapshot) {
            (Some(sandbox), None) => sandbox.fork(options, made).await,
            (None, Some(snapshot)) => snapshot.fork(options, made).await,
            (Some(sandbox), Some(snapshot)) => {
                let what = format!("`{source}` is a sandbox and a snapshot");
                Err(Error::new(ErrorKind::Ambiguous, what).hint(format!(
                    "Name one by its id: the sandbox {}, the snapshot {}",
                    sandbox.id().short(),
                    snapshot.id().short()
                )))
            }
            (None, None) => {
                let what = format!("There is no sandbox and no snapshot `{source}`");
                Err(Error::new(ErrorKind::NotFound, what))
            }
        }
    }

    /// Every sandbox, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn sandboxes(&self) -> Result<Vec<SandboxInfo>> {
        let layout = self.runtime.store().layout();
        let entries = self.runtime.list()?.into_iter();
        Ok(entries
            .map(|entry| SandboxInfo::from_entry(entry, layout))
            .collect())
    }

    /// What keeps sandboxes of the store out of that list: files that cannot be read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn damaged_sandboxes(&self) -> Result<Vec<Error>> {
        self.runtime.damaged()
    }

    /// The images of the store.
    #[must_use]
    pub const fn images(&self) -> Images<'_> {
        Images::new(self)
    }

    /// The snapshots of the store.
    #[must_use]
    pub const fn snapshots(&self) -> Snapshots<'_> {
        Snapshots::new(self)
    }

    /// The pools of the store.
    #[must_use]
    pub const fn pools(&self) -> Pools<'_> {
        Pools::new(self)
    }

    /// The named networks of the store.
    #[must_use]
    pub const fn networks(&self) -> Networks<'_> {
        Networks::new(self)
    }

    /// The settings of the store.
    #[must_use]
    pub const fn settings(&self) -> Settings<'_> {
        Settings::new(self)
    }

    /// The templates of the store.
    #[must_use]
    pub const fn templates(&self) -> Templates<'_> {
        Templates::new(self)
    }

    /// What the store takes of the disk, by kind.
    ///
    /// # Errors
    /// When a part of the store cannot be read.
    ///
    /// # Blocking
    /// One look at each file of the store, and at the open files of the user's processes.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.runtime.disk_usage()
    }

    /// What this host can do, what is missing and what mends it.
    ///
    /// # Blocking
    /// Tens of milliseconds, once per boot; then it is remembered.
    #[must_use]
    pub fn host_report(&self) -> HostReport {
        cofferdam_runtime::doctor::report(self.runtime.store().layout())
    }

    /// [`Self::host_report`] of the user's store, also when that cannot be opened: the report says
    /// why.
    ///
    /// # Blocking
    /// As [`Self::host_report`].
    #[must_use]
    pub fn host_report_at_any_rate() -> HostReport {
        match Self::open() {
            Ok(coffer) => coffer.host_report(),
            Err(error) => cofferdam_runtime::doctor::report_without_store(&error),
        }
    }

    /// The name of a sandbox that uses an image.
    pub(crate) fn image_user(&self, image: &Digest) -> Option<String> {
        self.runtime.image_user(image)
    }
}
