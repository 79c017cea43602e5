//! The names of sandboxes: a directory with one symbolic link for each, whose target is the id.
//!
//! symlink(2) fails if the name exists, so only one of two processes gets a name, and a lookup is
//! one system call. The directories of the sandboxes are the truth. A link without a sandbox is
//! the claim of a process that was killed. A sandbox without its link lost it in a power cut; it
//! gets the link back when the store is first opened after the host's start.
//!
//! A link is made without a lock and removed with one, so that nobody removes what another
//! process has just made.

use std::{
    ffi::OsString,
    fs as std_fs,
    io::ErrorKind::{AlreadyExists, NotADirectory, NotFound},
    os::unix::fs::symlink,
    path::PathBuf,
};

use cofferdam_base::{LockFile, boot_id, fs};
use cofferdam_types::{SandboxId, valid_name};

use crate::base::error::{Error, Result, io};

/// Files beside the links. No name starts with a dot.
const LOCK: &str = ".lock";
const FILLED: &str = ".filled";

/// The directory of names.
#[derive(Debug)]
pub(super) struct Names {
    dir: PathBuf,
    is_complete: bool,
}

/// The answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The name is the claimant's now.
    Made,
    /// A link is there already.
    HeldBy(Holder),
}

/// The target of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder(OsString);

impl Holder {
    /// The sandbox; `None` if the target is no id, which only damage can cause.
    pub(super) fn id(&self) -> Option<SandboxId> {
        self.0.to_str()?.parse().ok()
    }
}

impl Names {
    /// The names in `dir`. Enters `all` unless that was done since the host's start. A directory
    /// that cannot be written, as on a full disk, leaves the names incomplete.
    pub(super) fn open<I>(dir: PathBuf, all: impl FnOnce() -> Result<I>) -> Result<Self>
    where
        I: IntoIterator<Item = (String, SandboxId)>,
    {
        let mut names = Self {
            dir,
            is_complete: true,
        };
        let boot = boot_id().unwrap_or_default();
        let mark = names.dir.join(FILLED);
        if std_fs::read_to_string(&mark).is_ok_and(|filled| filled == boot) {
            return Ok(names);
        }
        let all = all()?;
        let fill = || -> Result<()> {
            fs::create_private_dir(&names.dir).map_err(|error| names.failed("make", error))?;
            for (name, id) in all {
                names.claim(&name, id)?;
            }
            fs::publish_volatile(&mark, boot.as_bytes())
                .map_err(|error| names.failed("fill", error))
        };
        names.is_complete = fill().is_ok();
        Ok(names)
    }

    /// Whether each sandbox that has a name was entered.
    pub(super) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The holder of a name.
    ///
    /// # Errors
    /// The file system's, but for a link that is not there.
    pub(super) fn holder(&self, name: &str) -> Result<Option<Holder>> {
        if !valid_name(name) {
            return Ok(None);
        }
        match std_fs::read_link(self.dir.join(name)) {
            Ok(target) => Ok(Some(Holder(target.into()))),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    /// Gives a name to a sandbox if no link has it.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn claim(&self, name: &str, id: SandboxId) -> Result<Claim> {
        // A link that goes in between is claimed in the second round.
        for _ in 0..2 {
            match symlink(id.to_string(), self.dir.join(name)) {
                Ok(()) => return Ok(Claim::Made),
                Err(error) if error.kind() == AlreadyExists => {}
                Err(error) => return Err(self.failed("write", error)),
            }
            if let Some(holder) = self.holder(name)? {
                return Ok(Claim::HeldBy(holder));
            }
        }
        Err(self.failed("write", AlreadyExists.into()))
    }

    /// Removes a name if it is still `holder`'s.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn release(&self, name: &str, holder: &Holder) -> Result<()> {
        let _lock = self.lock()?;
        if self.holder(name)?.as_ref() != Some(holder) {
            return Ok(());
        }
        fs::remove_file_if_present(&self.dir.join(name))
            .map_err(|error| self.failed("write", error))
    }

    /// Removes the name of a sandbox; without one, because its record is damaged, all that are its.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn release_of(&self, id: SandboxId, name: Option<&str>) -> Result<()> {
        let holder = Holder(id.to_string().into());
        if let Some(name) = name {
            return self.release(name, &holder);
        }
        let entries = match std_fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == NotFound => return Ok(()),
            Err(error) => return Err(self.failed("read", error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for name in names {
            if self.holder(&name)?.as_ref() == Some(&holder) {
                self.release(&name, &holder)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<LockFile> {
        LockFile::exclusive(&self.dir.join(LOCK)).map_err(|error| self.failed("lock", error))
    }

    fn failed(&self, verb: &str, error: std::io::Error) -> Error {
        let what = format!(
            "Could not {verb} the names of sandboxes in `{}`",
            self.dir.display()
        );
        io(what, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> SandboxId {
        SandboxId::from_random([byte; 32])
    }

    fn open(dir: &tempfile::TempDir) -> Names {
        Names::open(dir.path().join("names"), || Ok([])).unwrap()
    }

    #[test]
    fn a_name_is_claimed_once_and_is_free_after_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let names = open(&dir);
        assert_eq!(names.claim("web", id(1)).unwrap(), Claim::Made);
        let Claim::HeldBy(holder) = names.claim("web", id(2)).unwrap() else {
            panic!("a name was given twice");
        };
        assert_eq!(holder.id(), Some(id(1)));
        names.release("web", &holder).unwrap();
        assert_eq!(names.claim("web", id(2)).unwrap(), Claim::Made);
        // That of another sandbox stays.
        names.release("web", &holder).unwrap();
        let holder = names.holder("web").unwrap().unwrap();
        assert_eq!(holder.id(), Some(id(2)));
    }

    #[test]
    fn a_sandbox_without_a_record_loses_its_name_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let names = open(&dir);
        names.claim("web", id(1)).unwrap();
        names.claim("db", id(2)).unwrap();
        names.release_of(id(1), None).unwrap();
        assert_eq!(names.holder("web").unwrap(), None);
        assert!(names.holder("db").unwrap().is_some());
    }

    #[test]
    fn a_name_cannot_leave_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let names = open(&dir);
        symlink(id(1).to_string(), dir.path().join("outside")).unwrap();
        assert_eq!(names.holder("../outside").unwrap(), None);
    }

    #[test]
    fn names_are_entered_once_after_a_start_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let all = || Ok([("web".to_owned(), id(1))]);
        let names = Names::open(dir.path().join("names"), all).unwrap();
        assert!(names.is_complete() && names.holder("web").unwrap().is_some());
        let again = || -> Result<[(String, SandboxId); 0]> { panic!("they are complete") };
        assert!(
            Names::open(dir.path().join("names"), again)
                .unwrap()
                .is_complete()
        );
        std_fs::write(dir.path().join("names").join(FILLED), "an earlier start").unwrap();
        let all = || Ok([("db".to_owned(), id(2))]);
        let names = Names::open(dir.path().join("names"), all).unwrap();
        assert!(names.holder("db").unwrap().is_some());
    }
}
