//! The files that a capture makes: all of them, or none.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Files to be removed unless they are kept.
#[derive(Debug, Default)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    abandoned: Arc<AtomicBool>,
}

/// For whoever makes one of the files on another thread.
#[derive(Clone, Debug)]
pub(super) struct FileCreator(Arc<AtomicBool>);

impl Files {
    /// Takes charge of a path that had no file when the capture began.
    pub(super) fn add(&mut self, path: PathBuf) {
        self.paths.push(path);
    }

    pub(super) fn maker(&self) -> FileCreator {
        FileCreator(Arc::clone(&self.abandoned))
    }

    /// They are whole.
    pub(super) fn keep(&mut self) {
        self.paths.clear();
    }

    /// Removes them.
    pub(super) fn remove(&mut self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.paths.drain(..).for_each(|path| discard(&path));
    }
}

impl FileCreator {
    /// To be called when a file was made: removes it if the capture has been abandoned since, which
    /// may have been before there was a file to remove.
    pub(super) fn made(&self, path: &Path) {
        if self.0.load(Ordering::SeqCst) {
            discard(path);
        }
    }
}

/// Best effort: there is nobody to tell, and a file that was never made is fine.
fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_made_after_its_capture_was_abandoned_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let (early, late) = (dir.path().join("early"), dir.path().join("late"));
        let mut files = Files::default();
        let maker = files.maker();
        files.add(early.clone());
        files.add(late.clone());
        fs::write(&early, b"").unwrap();
        maker.made(&early);
        assert!(early.exists());
        files.remove();
        fs::write(&late, b"").unwrap();
        maker.made(&late);
        assert!(!early.exists() && !late.exists());
    }
}
