//! The generation file: how a program finds out that it was copied.
//!
//! A directory of its own is mounted read-only over `/run/cofferdam` of the root. The agent writes
//! the file in it through a descriptor that it keeps, while no process of the user runs. So the
//! file has changed before a copied process executes its next instruction, and a watch of
//! inotify(7) that the process has set has an event in its queue.

use std::os::fd::OwnedFd;

use cofferdam_proto::{FailureKind, GENERATION_FILE, Identity};
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, mount_bind, mount_remount},
};

use super::{STRICT, etc, mount_new, resolve, through};
use crate::failure::{OrFail, Result, failure};

/// Where the directory is before it is mounted in the root.
const SOURCE: &str = "/generation";

/// Length of a generation's name in hex digits.
const NAME_DIGITS: usize = 32;

/// The file, and how often it was written.
#[derive(Debug)]
pub(crate) struct GenerationFile {
    file: OwnedFd,
    /// The directory, through a mount that can be written to.
    pub(crate) directory: OwnedFd,
    count: u64,
    length: usize,
}

impl GenerationFile {
    /// Makes the empty file.
    pub(super) fn prepare() -> Result<Self> {
        let failed = || "Could not make the generation file";
        mount_new(SOURCE, "tmpfs")?;
        let (_, name) = directory_and_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = open(
            format!("{SOURCE}/{name}"),
            flags,
            Mode::from_raw_mode(0o444),
        )
        .or_fail(FailureKind::Mount, failed)?;
        Ok(Self {
            file,
            directory: super::open_directory(SOURCE)?,
            count: 0,
            length: 0,
        })
    }

    /// Mounts the directory in `root`.
    pub(super) fn bind(&self, root: &OwnedFd) -> Result<()> {
        let (directory, _) = directory_and_name();
        let failed = || format!("Could not mount `{directory}`");
        let target = resolve::ensure(root, directory, resolve::Kind::Directory)
            .or_fail(FailureKind::Mount, failed)?;
        mount_bind(SOURCE, through(&target)).or_fail(FailureKind::Mount, failed)?;
        // The descriptor shows what it was opened on; only a new look shows the mount.
        let mounted = resolve::ensure(root, directory, resolve::Kind::Directory)
            .or_fail(FailureKind::Mount, failed)?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | STRICT;
        mount_remount(through(&mounted), flags, c"").or_fail(FailureKind::Mount, failed)
    }

    /// Writes what `identity` says. No process of the user may run.
    pub(crate) fn write(&mut self, identity: &Identity) -> Result<()> {
        let failed = || "Could not write the generation file";
        check(&identity.generation)?;
        let text = content(self.count + 1, identity);
        etc::put(&self.file, &text).or_fail(FailureKind::Identity, failed)?;
        if text.len() < self.length {
            etc::cut(&self.file, &text).or_fail(FailureKind::Identity, failed)?;
        }
        self.count += 1;
        self.length = text.len();
        Ok(())
    }
}

fn directory_and_name() -> (&'static str, &'static str) {
    GENERATION_FILE.rsplit_once('/').unwrap_or(("/", ""))
}

fn check(generation: &str) -> Result<()> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if generation.len() == NAME_DIGITS && generation.bytes().all(hex) {
        return Ok(());
    }
    let message = format!("`{}` is not a generation", generation.escape_debug());
    Err(failure(FailureKind::Identity, message))
}

/// Lines of `KEY=value`, which a shell can read too.
fn content(count: u64, identity: &Identity) -> String {
    let Identity {
        generation, cause, ..
    } = identity;
    let mut text = format!(
        "GENERATION={generation}\nCOUNT={count}\nCAUSE={}\n",
        cause.as_str()
    );
    if let Some(index) = identity.fork_index {
        text.push_str(&format!("FORK_INDEX={index}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::IdentityCause;

    use super::*;

    fn identity(generation: &str, fork_index: Option<u32>) -> Identity {
        Identity {
            unix_ns: 0,
            entropy: Vec::new(),
            machine_id: String::new(),
            hostname: String::new(),
            cause: IdentityCause::Fork,
            generation: generation.to_owned(),
            fork_index,
            network: None,
        }
    }

    #[test]
    fn the_file_has_a_line_for_each_fact() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            content(3, &identity(id, Some(2))),
            format!("GENERATION={id}\nCOUNT=3\nCAUSE=fork\nFORK_INDEX=2\n")
        );
        assert!(!content(1, &identity(id, None)).contains("FORK_INDEX"));
    }

    #[test]
    fn a_generation_that_would_break_the_file_is_refused() {
        for id in [
            "",
            "0123",
            "0123456789abcdef0123456789abcde\n",
            &"A".repeat(32),
        ] {
            assert!(check(id).is_err(), "{id:?}");
        }
        assert!(check(&"a".repeat(32)).is_ok());
    }
}
