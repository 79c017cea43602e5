//! Files that are there whole or not at all, for `save` and `snapshot export`.
//!
//! A file has no name until it is whole, so that also a killed process leaves nothing behind,
//! unless it dies in the instant in which it replaces an older file. Where the file system has no
//! nameless files (NFS), it has another name until then, and a killed process leaves that one.
//! Source: open(2), `O_TMPFILE`; linkat(2).

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use cofferdam::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

/// Links that lead to links, as many as the kernel follows; path_resolution(7).
const MAX_LINKS: usize = 40;

/// Names to try for a file that has another one until it is whole.
const MAX_NAMES: usize = 16;

/// Bits of a mode that are rights; an older file's set-user-id is not for what is written here.
const RIGHTS: u32 = 0o777;

/// Who may do what with a file that was not there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// As for any new file: the umask takes away what the user does not want.
    Common,
    /// Nobody but the user: it holds a guest's memory.
    Private,
}

impl Rights {
    const fn mode(self) -> u32 {
        match self {
            Self::Common => 0o666,
            Self::Private => 0o600,
        }
    }
}

/// Writes a file, in place of one that is there, with its rights. A link is followed, as by a
/// shell's redirection. What is no plain file, such as a pipe, is written as it is.
///
/// # Errors
/// What `write` fails with, and the file system's; then an older file is as it was.
pub(crate) fn write_whole(
    path: &Path,
    rights: Rights,
    write: impl FnOnce(&File) -> Result<()>,
) -> Result<()> {
    let failed = |error| unwritable(path, error);
    let old = match fs::metadata(path) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if old.as_ref().is_some_and(|meta| !meta.is_file()) {
        let file = File::options().write(true).open(path).map_err(failed)?;
        return write(&file);
    }
    let unfinished = follow(path)
        .and_then(|target| StagedFile::beside(target, old.as_ref(), rights))
        .map_err(failed)?;
    write(&unfinished.file)?;
    // Whoever deletes what was written here relies on it.
    unfinished.file.sync_all().map_err(failed)?;
    unfinished.publish().map_err(failed)
}

/// Where a path leads, whether or not there is something.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = directory(&path).join(target),
            // No link, or nothing there yet.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// A file that has not got its name yet; dropped, it is gone.
#[derive(Debug)]
struct StagedFile {
    file: File,
    target: PathBuf,
    /// Where it is until then, if anywhere.
    staging: Option<PathBuf>,
}

impl StagedFile {
    fn beside(target: PathBuf, old: Option<&Metadata>, rights: Rights) -> io::Result<Self> {
        // By this path a nameless file gets its name.
        let nameless =
            nameless(&target, rights).and_then(|file| fs::metadata(own_path(&file)).map(|_| file));
        let unfinished = match nameless {
            Ok(file) => Self {
                file,
                target,
                staging: None,
            },
            Err(error) if is_missing_feature(&error) => {
                // Secret until it has the rights of the file that it replaces.
                let secret = old.map_or(rights, |_| Rights::Private);
                Self::named(target, secret)?
            }
            Err(error) => return Err(error),
        };
        if let Some(old) = old {
            let mode = old.permissions().mode() & RIGHTS;
            unfinished
                .file
                .set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(unfinished)
    }

    /// One with another name.
    fn named(target: PathBuf, rights: Rights) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create_new(true).mode(rights.mode());
        let (staging, file) = first_free(&target, |name| options.open(name))?;
        Ok(Self {
            file,
            target,
            staging: Some(staging),
        })
    }

    fn publish(mut self) -> io::Result<()> {
        if self.staging.is_none() {
            match link(&self.file, &self.target) {
                Ok(()) => return self.sync_name(),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            // Only a rename replaces; for that the file needs a name of its own.
            let (staging, ()) = first_free(&self.target, |name| link(&self.file, name))?;
            self.staging = Some(staging);
        }
        if let Some(staging) = &self.staging {
            fs::rename(staging, &self.target)?;
            self.staging = None;
        }
        self.sync_name()
    }

    /// The name has to be on the disk too.
    fn sync_name(&self) -> io::Result<()> {
        File::open(directory(&self.target))?.sync_all()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Some(staging) = &self.staging {
            // Another error is being reported.
            let _ = fs::remove_file(staging);
        }
    }
}

fn nameless(target: &Path, rights: Rights) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(rights.mode());
    Ok(open(directory(target), flags, mode)?.into())
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

/// Does something with the first name beside `target` that nobody has: a process of our number
/// may have left one.
fn first_free<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    let mut last = None;
    for number in 0..MAX_NAMES {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.{number}.part", std::process::id()));
        let path = target.with_file_name(name);
        match make(&path) {
            Ok(made) => return Ok((path, made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into()))
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("Could not write `{}`", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn text(mut file: &File, text: &str) -> Result<()> {
        file.write_all(text.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn a_file_has_no_name_until_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_whole(&path, Rights::Common, |file| {
            text(file, "half")?;
            assert_eq!(names(dir.path()), [""; 0]);
            text(file, " and half")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half and half");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn an_older_file_is_replaced_and_its_rights_hold_from_the_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4640)).unwrap();
        write_whole(&path, Rights::Common, |file| {
            assert_eq!(mode(&own_path(file)), 0o640);
            assert_eq!(fs::read_to_string(&path).unwrap(), "old");
            text(file, "new")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(
            (mode(&path), names(dir.path())),
            (0o640, vec!["file".into()])
        );
    }

    #[test]
    fn a_private_file_is_nobody_elses_and_keeps_the_rights_of_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for expected in [0o600, 0o640] {
            write_whole(&path, Rights::Private, |file| text(file, "x")).unwrap();
            assert_eq!(mode(&path), expected);
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        }
        let named = StagedFile::named(dir.path().join("other"), Rights::Private).unwrap();
        assert_eq!(mode(named.staging.as_ref().unwrap()), 0o600);
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
        assert!(write_whole(&path, Rights::Common, failing).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_made_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link, far] = ["file", "link", "far"].map(|name| dir.path().join(name));
        symlink("file", &link).unwrap();
        symlink(&link, &far).unwrap();
        for content in ["made", "replaced"] {
            write_whole(&far, Rights::Common, |file| text(file, content)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(dir.path()), ["far", "file", "link"]);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_link_to_itself_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("link", &link).unwrap();
        assert!(write_whole(&link, Rights::Common, |_| Ok(())).is_err());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_file_with_another_name_until_then_takes_a_free_one_and_loses_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        let left = dir
            .path()
            .join(format!("file.{}.0.part", std::process::id()));
        fs::write(&left, "by a process of our number").unwrap();
        let named = || StagedFile::named(target.clone(), Rights::Private).unwrap();
        let dropped = named();
        assert_eq!(mode(dropped.staging.as_ref().unwrap()), 0o600);
        drop(dropped);
        assert_eq!(names(dir.path()).len(), 1);
        for content in ["made", "replaced"] {
            let unfinished = named();
            text(&unfinished.file, content).unwrap();
            unfinished.publish().unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn a_device_is_written_and_not_replaced() {
        write_whole(Path::new("/dev/null"), Rights::Common, |file| {
            text(file, "x")
        })
        .unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let error =
            write_whole(Path::new("/no/such/dir/file"), Rights::Common, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("/no/such/dir/file"));
    }
}
