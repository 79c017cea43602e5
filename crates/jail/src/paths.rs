//! Which files a thread may open and which names it may change, by Landlock.
//!
//! Used by [`crate::thread`]: a system-call filter sees no paths.
//!
//! Layout of a rule set: `[handled rights: u64]`; of a rule: `[rights: u64][directory: i32]`, both
//! in the machine's order. Source: landlock(7), `linux/landlock.h`.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use crate::result::check;

/// Rights of the first version of Landlock, which are bits 0 to 12: to execute, read and write
/// files, to list directories, and to make and remove names of each kind.
const HANDLED: u64 = (1 << 13) - 1;
const READ_FILE: u64 = 1 << 2;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_SOCKET: u64 = 1 << 9;

/// `LANDLOCK_RULE_PATH_BENEATH`.
const BENEATH: libc::c_long = 1;

/// Lets the calling thread read the files below `read`, and make and remove names of sockets below
/// `names`; it may open nothing else. Does nothing on a kernel without Landlock. Needs
/// no_new_privs.
pub(crate) fn confine(read: &Path, names: &Path) -> io::Result<()> {
    let handled = HANDLED.to_ne_bytes();
    // SAFETY: the kernel reads as many bytes of `handled` as its length says.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            handled.as_ptr(),
            handled.len(),
            0,
        )
    };
    let rules = match check(libc::c_int::try_from(made).unwrap_or(-1)) {
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(rules) => unsafe { OwnedFd::from_raw_fd(rules) },
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    allow(&rules, read, READ_FILE)?;
    allow(&rules, names, MAKE_SOCKET | REMOVE_FILE)?;
    // SAFETY: takes numbers only, and holds for this thread.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    check(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}

fn allow(rules: &OwnedFd, path: &Path, rights: u64) -> io::Result<()> {
    let mut options = File::options();
    let dir = options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)?;
    let mut rule = [0; 12];
    rule[..8].copy_from_slice(&rights.to_ne_bytes());
    rule[8..].copy_from_slice(&dir.as_raw_fd().to_ne_bytes());
    // SAFETY: the kernel reads the twelve bytes of a rule of this kind; the directory is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            BENEATH,
            rule.as_ptr(),
            0,
        )
    };
    check(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}
