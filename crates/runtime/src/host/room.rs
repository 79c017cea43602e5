//! Whether the host has room for one more machine.

use std::path::Path;

use crate::{
    base::error::{Error, ErrorKind, Result},
    store::layout::Layout,
};

/// What an idle fork and its supervisor use for themselves, as measured, doubled. In bytes.
const FORK_BYTES: u64 = 64 << 20;

/// What the host keeps for everything else: below this it would begin to kill. In bytes.
const SPARE_MEMORY_BYTES: u64 = 256 << 20;

/// Room on the store's file system for a fork's first writes and logs, in bytes.
const SPARE_DISK_BYTES: u64 = 64 << 20;

/// Fails when a fork would come up only to be killed, or to fail at its first write. `begun` is
/// how many others are coming up, which have not taken their memory yet.
///
/// # Errors
/// [`ErrorKind::NoMemory`] or [`ErrorKind::NoSpace`].
pub(crate) fn expect_for_fork(layout: &Layout, begun: usize) -> Result<()> {
    let mib = |bytes: u64| bytes >> 20;
    if let Some(available) = meminfo("MemAvailable:")
        && available < FORK_BYTES * (begun as u64 + 1) + SPARE_MEMORY_BYTES
    {
        let what = format!(
            "The host has {} MiB of memory left, too little for one more sandbox",
            mib(available)
        );
        return Err(
            Error::new(ErrorKind::NoMemory, what).hint("Stop some sandboxes, or fork fewer")
        );
    }
    let Some(free) = free_bytes(layout.home()) else {
        // What cannot be told shows when the files are made.
        return Ok(());
    };
    if free < SPARE_DISK_BYTES {
        let what = format!(
            "A sandbox needs {} MiB on the store's disk, which has {} MiB free",
            mib(SPARE_DISK_BYTES),
            mib(free)
        );
        return Err(Error::new(ErrorKind::NoSpace, what)
            .hint("Free some space, or move the store with `COFFER_HOME`"));
    }
    Ok(())
}

/// How much room the file system of `path` has, as a part of a sentence.
pub(crate) fn free_text(path: &Path) -> String {
    match free_bytes(path) {
        Some(free) => format!("`{}` has {} MiB free", path.display(), free >> 20),
        None => format!("the room at `{}` is unknown", path.display()),
    }
}

/// Bytes that an ordinary user could still write to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Fails when a machine would have more memory than the host has.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`].
pub(crate) fn check_memory(memory_mib: u32) -> Result<()> {
    let Some(host) = meminfo("MemTotal:") else {
        return Ok(());
    };
    if u64::from(memory_mib) <= host >> 20 {
        return Ok(());
    }
    let what = format!(
        "{memory_mib} MiB of memory are more than the host's {} MiB",
        host >> 20
    );
    Err(Error::new(ErrorKind::InvalidSpec, what).hint("Give the sandbox less with `--memory`"))
}

/// A line of `/proc/meminfo` in bytes. Source: proc_meminfo(5); values are in KiB.
pub(crate) fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}
