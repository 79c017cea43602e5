//! The store of sandboxes: a directory each, which is the truth, and their names.
//!
//! Every change is a rename, so a reader sees the old or the new. A sandbox's directory appears
//! whole, by the rename of a staging directory, and disappears by the rename to another before
//! its files go. State that claims a live supervisor is believed only while that supervisor holds
//! the sandbox's lock: see [`reconcile`].

mod choices;
pub(crate) mod config;
mod entry;
pub(crate) mod event;
pub(crate) mod images;
mod insert;
pub(crate) mod journal;
pub(crate) mod layout;
pub(crate) mod log_mark;
mod names;
pub(crate) mod networks;
pub(crate) mod output_log;
pub(crate) mod program;
mod random_name;
mod reconcile;
mod record;
pub(crate) mod resume;
pub(crate) mod snapshot;
mod spare;
pub(crate) mod staging;
pub(crate) mod uppers;

use std::{fs as std_fs, path::PathBuf};

use cofferdam_base::{LockFile, fs};
use cofferdam_types::SandboxId;
use rustix::fs::Access;

pub use self::choices::Choices;
pub use self::entry::Entry;
pub use self::event::{Event, EventKind};
use self::journal::Journal;
use self::layout::{Layout, SandboxPaths};
use self::names::Names;
pub(crate) use self::reconcile::{end_role, end_supervisor};
pub(crate) use self::record::RECORD_VERSION;
pub use self::record::{
    EndedBy, Failure, ForkOrigin, LeaseState, RecordedImage, SandboxRecord, SandboxState,
};
use crate::base::error::{Error, ErrorKind, Result, io};

/// Largest record or state file that is read, in bytes: a megabyte holds the longest command
/// line and environment that Linux would run.
const MAX_RECORD_BYTES: u64 = 4 << 20;

/// The open store.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    names: Names,
}

impl Store {
    /// Opens the store and cleans up what killed processes left.
    ///
    /// # Errors
    /// When the home cannot be read or written.
    pub fn open(layout: Layout) -> Result<Self> {
        let names = Names::open(layout.names(), || reconcile::named(&layout))?;
        let store = Self { layout, names };
        reconcile::sweep(&store)?;
        Ok(store)
    }

    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The sandbox that `name` means: a name, an id, or the unique start of an id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Ambiguous`].
    pub fn find(&self, name: &str) -> Result<Entry> {
        self.load(self.find_id(name)?)?
            .ok_or_else(|| not_found(name))
    }

    /// The id of that sandbox, whatever its files are like.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Ambiguous`].
    pub fn find_id(&self, name: &str) -> Result<SandboxId> {
        if let Some(id) = self.id_of_name(name)? {
            return Ok(id);
        }
        if let Ok(id) = name.parse::<SandboxId>()
            && self.layout.sandbox(id).dir.exists()
        {
            return Ok(id);
        }
        let is_hex = |c: char| c.is_ascii_digit() || matches!(c, 'a'..='f');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_hex) {
            return Err(not_found(name));
        }
        let starts = |id: &SandboxId| id.to_string().starts_with(name);
        let ids: Vec<_> = self.ids()?.into_iter().filter(starts).collect();
        match ids.as_slice() {
            [] => Err(not_found(name)),
            [id] => Ok(*id),
            _ => Err(Error::new(
                ErrorKind::Ambiguous,
                format!("More than one sandbox has an id that starts with `{name}`"),
            )
            .hint("Give more digits")),
        }
    }

    /// The holder of a name, whatever the sandbox's files are like.
    fn id_of_name(&self, name: &str) -> Result<Option<SandboxId>> {
        if let Some(holder) = self.names.holder(name)? {
            return Ok(holder.id());
        }
        if self.names.is_complete() {
            return Ok(None);
        }
        let mut all = reconcile::named(&self.layout)?.into_iter();
        Ok(all.find(|(other, _)| other == name).map(|(_, id)| id))
    }

    /// The id of every sandbox, in no order.
    fn ids(&self) -> Result<Vec<SandboxId>> {
        reconcile::ids(&self.layout)
    }

    /// Every sandbox, newest first.
    ///
    /// # Errors
    /// That of their directory; a damaged sandbox is left out.
    pub fn list(&self) -> Result<Vec<Entry>> {
        // Without this right all would look damaged.
        let dir = self.layout.sandboxes();
        rustix::fs::access(&dir, Access::READ_OK | Access::EXEC_OK)
            .map_err(|error| io(format!("Could not read `{}`", dir.display()), error.into()))?;
        let mut entries: Vec<Entry> = self
            .ids()?
            .into_iter()
            .filter_map(|id| self.load(id).ok().flatten())
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.record.created_ns));
        Ok(entries)
    }

    /// Why those that [`Self::list`] leaves out cannot be read.
    ///
    /// # Errors
    /// That of their directory.
    pub fn damaged(&self) -> Result<Vec<Error>> {
        let ids = self.ids()?;
        let damage = |id: SandboxId| self.load(id).err();
        Ok(ids.into_iter().filter_map(damage).collect())
    }

    /// A sandbox by id, its state reconciled with reality; `None` if it is gone.
    ///
    /// # Errors
    /// When its files are damaged.
    pub fn load(&self, id: SandboxId) -> Result<Option<Entry>> {
        let paths = self.layout.sandbox(id);
        let mut record: SandboxRecord = match fs::read_json(&paths.record(), MAX_RECORD_BYTES) {
            Ok(record) => record,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(id, error)),
        };
        if record.version != RECORD_VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "Sandbox `{}` was made by another version of Cofferdam",
                    record.name
                ),
            )
            .hint("Use that version, or remove its directory"));
        }
        record.image.rootfs = self.layout.rootfs_here(&record.image.rootfs);
        let state = match read_state(&paths) {
            Ok(state) => state,
            // Another command has removed it since.
            Err(_) if !paths.dir.exists() => return Ok(None),
            Err(error) => return Err(damaged(id, error)),
        };
        let entry = Entry { record, state };
        if entry.state.status.is_live() {
            reconcile::check(self, entry)
        } else {
            reconcile::check_resume(self, entry)
        }
    }

    /// Replaces a sandbox's state. The caller holds its lock.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_state(&self, id: SandboxId, state: &SandboxState) -> Result<()> {
        let paths = self.layout.sandbox(id);
        spare::publish(&paths.state(), &paths.spare_state(), state).map_err(|error| {
            io(
                format!("Could not write the state of `{}`", id.short()),
                error,
            )
        })
    }

    /// Replaces a sandbox's record. Only what its network may have changes in its life. The caller
    /// holds its lock.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write_record(layout: &Layout, record: &SandboxRecord) -> Result<()> {
        let paths = layout.sandbox(record.id);
        fs::publish_json(&paths.record(), record, true).map_err(|error| {
            io(
                format!("Could not write the record of `{}`", record.name),
                error,
            )
        })
    }

    /// Sets room aside, so that [`Self::set_state`] works on a disk that is full by then. Without
    /// room now there is none: the state is written as long as it can be.
    pub(crate) fn reserve_state(&self, id: SandboxId) {
        spare::reserve(&self.layout.sandbox(id).spare_state());
    }

    /// Puts an event into the journal. One that cannot be written must not stop what it is about.
    pub(crate) fn note(&self, record: &SandboxRecord, kind: EventKind) {
        let _ = self.journal().append(&Event::now(record, kind));
    }

    /// The journal of events.
    pub(crate) fn journal(&self) -> Journal {
        Journal::new(self.layout.events())
    }

    /// Removes a sandbox that is not live, with its lock held by the caller or free.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, id: SandboxId) -> Result<()> {
        let paths = self.layout.sandbox(id);
        let removed = fs::staging_path(&paths.dir);
        // The event has its name. A damaged sandbox has none.
        let record: std::io::Result<SandboxRecord> =
            fs::read_json(&paths.record(), MAX_RECORD_BYTES);
        match std_fs::rename(&paths.dir, &removed) {
            Ok(()) => {
                if let Ok(record) = &record {
                    self.note(record, EventKind::Removed);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io(
                    format!("Could not remove sandbox `{}`", id.short()),
                    error,
                ));
            }
        }
        let name = record.as_ref().ok().map(|record| record.name.as_str());
        // The next process that wants the name takes it over if it stays.
        let _ = self.names.release_of(id, name);
        // From here on the sandbox is gone; what is left are files that any later call sweeps.
        let _ = fs::remove_dir_if_present(&removed);
        self.layout.remove_sockets(&paths);
        Ok(())
    }

    /// Removes a sandbox that nobody uses.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when another process holds it.
    pub(crate) fn remove_unused(&self, id: SandboxId, name: &str) -> Result<()> {
        let Some(_lock) = self.try_lock_existing(id)? else {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{name}` is being used by another command"),
            ));
        };
        self.remove(id)
    }

    /// Takes a sandbox's lock if no supervisor holds it.
    ///
    /// # Errors
    /// The file system's.
    pub fn try_lock(&self, id: SandboxId) -> Result<Option<LockFile>> {
        LockFile::try_exclusive(&self.layout.sandbox(id).lock())
            .map_err(|error| io(format!("Could not lock sandbox `{}`", id.short()), error))
    }

    /// Like [`Self::try_lock`]; a sandbox whose directory is gone counts as unlocked.
    ///
    /// # Errors
    /// The file system's.
    pub fn try_lock_existing(&self, id: SandboxId) -> Result<Option<Option<LockFile>>> {
        if !self.layout.sandbox(id).dir.exists() {
            return Ok(Some(None));
        }
        Ok(self.try_lock(id)?.map(Some))
    }
}

fn read_state(paths: &SandboxPaths) -> std::io::Result<SandboxState> {
    fs::read_json(&paths.state(), MAX_RECORD_BYTES)
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("There is no sandbox `{name}`"))
        .hint("List them with `coffer ps -a`")
}

fn damaged(id: SandboxId, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("The files of sandbox `{}` are damaged", id.short()),
    )
    .because(error)
    .hint(format!("Remove it with `coffer rm -f {}`", id.short()))
}

/// Where a doomed or staging directory may be left by a killed process.
fn staging_dirs(layout: &Layout) -> [PathBuf; 5] {
    [
        layout.sandboxes(),
        layout.templates(),
        layout.snapshots(),
        layout.pools(),
        layout.networks(),
    ]
}

#[cfg(test)]
mod tests;
