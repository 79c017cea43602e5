//! Paths inside the root, whatever links the image has laid.
//!
//! [`open`] is one `openat2` with `RESOLVE_IN_ROOT`: absolute links and `..` stay inside the root,
//! and magic links do not work. [`ensure`] makes what is missing on the way, following dangling
//! links as Docker does: each step is again an `openat2` in the root, so that a workload that
//! swaps directories meanwhile gets files made inside its own root and nowhere else.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
};

use cofferdam_proto::FailureKind;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat},
    io::{Errno, Result},
};

use crate::failure::{OrFail, failure};

/// Links followed before a path is taken for a loop; path_resolution(7).
const MAX_LINKS: u32 = 40;

/// What [`ensure`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory, 0755.
    Directory,
    /// An empty file, 0644.
    File,
}

/// Opens `path` inside `root`.
pub(crate) fn open(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd> {
    openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )
}

/// Fails unless `name` is a directory of `root` and not a link to one.
pub(super) fn require_directory(root: &OwnedFd, name: &str) -> crate::failure::Result<()> {
    match mkdirat(root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(error) => {
            return Err(error).or_fail(FailureKind::Mount, || format!("Could not make `/{name}`"));
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    match open(root, name, flags) {
        Ok(_) => Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let message = format!("`/{name}` of the image is not a directory");
            Err(failure(FailureKind::Mount, message))
        }
        Err(error) => {
            Err(error).or_fail(FailureKind::Mount, || format!("Could not open `/{name}`"))
        }
    }
}

/// Opens `path` inside `root` as an `O_PATH` descriptor, making it and its parents when absent.
///
/// # Errors
/// `NOTDIR` or `ISDIR` when it is there and something else; what the kernel says otherwise.
pub(crate) fn ensure(root: impl AsFd, path: &str, kind: Kind) -> Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path, OFlags::PATH) {
        Ok(found) => return check(found, kind),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let mut done = String::from(".");
    let mut rest: VecDeque<String> = components(path).collect();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            done.truncate(done.rfind('/').unwrap_or(1));
            continue;
        }
        let parent = open(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
        match openat(
            &parent,
            name.as_str(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(found) if is_link(&found)? => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(&found, "", Vec::new())?;
                let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                if target.starts_with('/') {
                    done.truncate(1);
                }
                for part in components(target).rev() {
                    rest.push_front(part);
                }
                continue;
            }
            Ok(_) => {}
            Err(Errno::NOENT) => make(&parent, &name, kind, rest.is_empty())?,
            Err(error) => return Err(error),
        }
        done.push('/');
        done.push_str(&name);
    }
    check(open(root, &done, OFlags::PATH)?, kind)
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .map(str::to_owned)
}

fn make(parent: &OwnedFd, name: &str, kind: Kind, last: bool) -> Result<()> {
    let made = if last && kind == Kind::File {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    } else {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))
    };
    match made {
        // Somebody else was faster; the next step sees what it is.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn is_link(file: &OwnedFd) -> Result<bool> {
    Ok(file_type(file)? == FileType::Symlink)
}

fn check(found: OwnedFd, kind: Kind) -> Result<OwnedFd> {
    match (kind, file_type(&found)?) {
        (Kind::Directory, FileType::Directory) => Ok(found),
        (Kind::Directory, _) => Err(Errno::NOTDIR),
        (Kind::File, FileType::Directory) => Err(Errno::ISDIR),
        (Kind::File, _) => Ok(found),
    }
}

fn file_type(file: &OwnedFd) -> Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}
