//! Advisory locks on files, held by an open file and so freed by the kernel when a process dies.
//!
//! Source: flock(2). The lock belongs to the open file description: it is shared with children
//! that inherit the descriptor, so descriptors here are close-on-exec.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

/// A held lock; dropping it frees the lock.
#[derive(Debug)]
pub struct LockFile(File);

impl LockFile {
    /// Takes the lock on `path`, making the file if needed, and waits for it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    ///
    /// # Blocking
    /// Until the holder frees it; holders must hold it briefly.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            retry_on_interrupt(|| flock(&file, FlockOperation::LockExclusive))?;
            if names(path, &file)? {
                return Ok(Self(file));
            }
        }
    }

    /// Like [`Self::exclusive`], shared with other readers.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn shared(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        retry_on_interrupt(|| flock(&file, FlockOperation::LockShared))?;
        Ok(Self(file))
    }

    /// Takes the lock if nobody holds it; `None` if somebody does.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if names(path, &file)? => return Ok(Some(Self(file))),
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the file at `path` if no process holds its lock. A process that waits for the lock at this
    /// moment makes another file.
    ///
    /// # Errors
    /// When the file cannot be opened, locked or removed.
    pub fn remove_if_free(path: &Path) -> io::Result<()> {
        match Self::try_exclusive(path)? {
            Some(_held) => crate::fs::remove_file_if_present(path),
            None => Ok(()),
        }
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Whether `path` still names the file that was opened there: its holder may have removed it. One
/// whose directory is gone too can have no other; its caller finds that out.
fn names(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(path.parent().is_some_and(|dir| !dir.exists()))
        }
        Err(error) => Err(error),
    }
}

fn retry_on_interrupt(mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_on_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = LockFile::try_exclusive(&path).unwrap().unwrap();
        LockFile::remove_if_free(&path).unwrap();
        assert!(path.exists(), "somebody holds it");
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || LockFile::exclusive(&path).unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        let other = LockFile::try_exclusive(&path).unwrap().unwrap();
        drop((held, other));
        let held = waiter.join().unwrap();
        assert!(LockFile::try_exclusive(&path).unwrap().is_none());
        drop(held);
        LockFile::remove_if_free(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_second_try_fails_until_the_first_holder_drops() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = LockFile::try_exclusive(&path).unwrap().unwrap();
        assert!(LockFile::try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(LockFile::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn readers_share_and_keep_writers_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = LockFile::shared(&path).unwrap();
        let second = LockFile::shared(&path).unwrap();
        assert!(LockFile::try_exclusive(&path).unwrap().is_none());
        drop((first, second));
        assert!(LockFile::try_exclusive(&path).unwrap().is_some());
    }
}
