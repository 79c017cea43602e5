//! Files that are there whole or not at all, for `save` and `snapshot export`.
//!
//! A file has no name until it is whole, so that also a killed process leaves nothing behind.
//! Where the file system has no such files (NFS), it has another name until then, and a killed
//! process leaves that one. Source: open(2), `O_TMPFILE`; linkat(2).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use cofferdam::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

/// Writes a file, in place of one that is there. A link is followed, as by a shell's redirection.
/// What is no plain file, such as a pipe, is written as it is.
///
/// # Errors
/// What `write` fails with, and the file system's; then an older file is as it was.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let failed = |error| unwritable(path, error);
    let old = fs::metadata(path).ok();
    if old.as_ref().is_some_and(|meta| !meta.is_file()) {
        let file = File::options().write(true).open(path).map_err(failed)?;
        return write(&file);
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let unfinished = Unfinished::beside(target).map_err(failed)?;
    write(&unfinished.file)?;
    if let Some(old) = old {
        let mode = old.permissions();
        unfinished.file.set_permissions(mode).map_err(failed)?;
    }
    // Whoever deletes what was written here relies on it.
    unfinished.file.sync_all().map_err(failed)?;
    unfinished.publish().map_err(failed)
}

/// A file that has not got its name yet; dropped, it is gone.
#[derive(Debug)]
struct Unfinished {
    file: File,
    target: PathBuf,
    /// Where it is until then, if anywhere.
    staging: Option<PathBuf>,
}

impl Unfinished {
    fn beside(target: PathBuf) -> io::Result<Self> {
        let nameless = nameless(&target).and_then(|file| {
            // By this path it gets its name.
            fs::metadata(own_path(&file)).map(|_| file)
        });
        match nameless {
            Ok(file) => Ok(Self {
                file,
                target,
                staging: None,
            }),
            Err(error) if is_missing_feature(&error) => {
                let staging = staging_path(&target);
                Ok(Self {
                    file: File::create_new(&staging)?,
                    target,
                    staging: Some(staging),
                })
            }
            Err(error) => Err(error),
        }
    }

    fn publish(mut self) -> io::Result<()> {
        if self.staging.is_none() {
            match link(&self.file, &self.target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Only a rename replaces; for that the file needs a name of its own.
                    let staging = staging_path(&self.target);
                    link(&self.file, &staging)?;
                    self.staging = Some(staging);
                }
                linked => return linked,
            }
        }
        if let Some(staging) = &self.staging {
            fs::rename(staging, &self.target)?;
            self.staging = None;
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(staging) = &self.staging {
            // Another error is being reported.
            let _ = fs::remove_file(staging);
        }
    }
}

fn nameless(target: &Path) -> io::Result<File> {
    let dir = match target.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    // As for any new file: the umask takes away what the user does not want.
    let mode = Mode::from_raw_mode(0o666);
    Ok(open(dir, flags, mode)?.into())
}

/// Whether nameless files are what is missing, and not the directory or a right. Source: open(2);
/// `EISDIR` is the answer of a kernel that knows none, `ENOENT` of a missing `/proc` also.
fn is_missing_feature(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL, Errno::NOENT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn own_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn link(file: &File, name: &Path) -> io::Result<()> {
    linkat(CWD, own_path(file), CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
}

fn staging_path(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    target.with_file_name(name)
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("Could not write `{}`", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn text(mut file: &File, text: &str) -> Result<()> {
        file.write_all(text.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn a_file_has_no_name_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_whole(&path, |file| {
            text(file, "half")?;
            assert_eq!(names(dir.path()), [""; 0]);
            text(file, " and half")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half and half");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn an_older_file_is_replaced_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write_whole(&path, |file| {
            assert_eq!(fs::read_to_string(&path).unwrap(), "old");
            text(file, "new")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_failure_leaves_the_older_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let failing = |file: &File| {
            text(file, "new")?;
            Err(Error::new(ErrorKind::Io, "It failed"))
        };
        assert!(write_whole(&path, failing).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&path, "old").unwrap();
        symlink("file", &link).unwrap();
        write_whole(&link, |file| text(file, "new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_staged_file_that_is_dropped_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let staging = dir.path().join("part");
        let unfinished = |staging: &Path| Unfinished {
            file: File::create_new(staging).unwrap(),
            target: dir.path().join("file"),
            staging: Some(staging.to_owned()),
        };
        drop(unfinished(&staging));
        assert_eq!(names(dir.path()), [""; 0]);
        unfinished(&staging).publish().unwrap();
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn a_device_is_written_and_not_replaced() {
        write_whole(Path::new("/dev/null"), |file| text(file, "x")).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let error = write_whole(Path::new("/no/such/dir/file"), |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("/no/such/dir/file"));
    }
}
