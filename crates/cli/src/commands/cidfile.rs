//! `--cidfile`: the id of a new sandbox in a file for scripts.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use cofferdam::{Error, ErrorKind, Result, SandboxId};

/// A file that is there for an id, and goes if none is written.
#[derive(Debug)]
pub(super) struct CidFile<'a> {
    path: Option<&'a Path>,
    file: Option<File>,
}

impl<'a> CidFile<'a> {
    /// Makes the file, if one is asked for.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] when it is there already, as in Docker: its sandbox may run.
    pub(super) fn reserve(path: Option<&'a Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                path: None,
                file: None,
            });
        };
        let file = File::create_new(path).map_err(|error| {
            let what = format!("Could not make `{}` for the id", path.display());
            Error::new(ErrorKind::InvalidSpec, what)
                .because(error)
                .hint("Name a file with `--cidfile` that is not there")
        })?;
        Ok(Self {
            path: Some(path),
            file: Some(file),
        })
    }

    /// Writes the id.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(super) fn write(mut self, id: SandboxId) -> Result<()> {
        let (Some(path), Some(mut file)) = (self.path, self.file.take()) else {
            return Ok(());
        };
        file.write_all(id.to_string().as_bytes()).map_err(|error| {
            let what = format!("Could not write the id to `{}`", path.display());
            Error::new(ErrorKind::Io, what).because(error)
        })
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if let (Some(path), Some(_)) = (self.path, &self.file) {
            // It is empty and ours; one that somebody took away meanwhile is gone already.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_kept_and_an_unused_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cid");
        drop(CidFile::reserve(Some(&path)).unwrap());
        assert!(!path.exists());
        let id: SandboxId = "a".repeat(64).parse().unwrap();
        CidFile::reserve(Some(&path)).unwrap().write(id).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), id.to_string());
        assert!(CidFile::reserve(Some(&path)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), id.to_string());
    }
}
