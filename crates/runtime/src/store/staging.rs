//! A directory that is being made and appears whole or not at all.

use std::path::{Path, PathBuf};

use cofferdam_base::fs;

use crate::base::error::{Result, io};

/// A directory beside its target. Dropped without [`Self::publish`] it goes away; what a killed
/// process leaves is swept by the next command.
#[derive(Debug)]
pub(crate) struct StagingDir {
    dir: PathBuf,
    target: PathBuf,
}

impl StagingDir {
    /// Makes the directory that is to become `target`.
    pub(crate) fn new(target: PathBuf) -> Result<Self> {
        let dir = fs::staging_path(&target);
        fs::create_private_dir(&dir)
            .map_err(|error| io(format!("Could not make `{}`", dir.display()), error))?;
        Ok(Self { dir, target })
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// What it is to become.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Gives it its name; returns where it is.
    pub(crate) fn publish(self) -> Result<PathBuf> {
        let target = self.target.clone();
        std::fs::rename(&self.dir, &target)
            .map_err(|error| io(format!("Could not publish `{}`", target.display()), error))?;
        Ok(target)
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        // After publishing there is nothing there; else the sweep finds what this leaves.
        let _ = fs::remove_dir_if_present(&self.dir);
    }
}
