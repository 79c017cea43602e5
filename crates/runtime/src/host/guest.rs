//! The guest's own files: the embedded initial file system and the kernel.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use cofferdam_base::{env_vars, fs};
use cofferdam_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::{
    base::error::{Error, ErrorKind, Result, io as io_error},
    store::layout::Layout,
};

/// The initial file system with the agent as `/init`; empty in a build without `xtask`.
static INITRAMFS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/initramfs.cpio"));

/// Its sha256, from the build.
const INITRAMFS_SHA256: &str = env!("COFFER_INITRAMFS_SHA256");

/// Name of the kernel beside the program.
const KERNEL_NAME: &str = "coffer-vmlinux";

/// The files that a machine boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestFiles {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The initial file system.
    pub(crate) initrd: PathBuf,
    /// What tells these files from others, for a template's key.
    pub(crate) key: String,
}

impl GuestFiles {
    /// The parts of a machine's key that are about the guest; see `snapshot::fit`.
    pub(crate) fn parts(&self) -> String {
        self.key.replacen(" initramfs ", "; agent ", 1)
    }
}

/// Whether this program was built with its agent.
pub(crate) const fn has_agent() -> bool {
    !INITRAMFS.is_empty()
}

/// Finds the kernel and puts the initial file system where a backend can open it.
///
/// # Errors
/// When there is no kernel, or the program was built without its agent.
pub(crate) fn find(layout: &Layout, kernel: Option<&str>) -> Result<GuestFiles> {
    let (initramfs, digest) = initramfs(layout);
    if initramfs.is_empty() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "This program was built without its guest agent",
        )
        .hint("Build it with `cargo xtask build --release`"));
    }
    let kernel = find_kernel(layout, kernel)?;
    let initrd = layout.cache().join(format!("initramfs-{digest}.cpio"));
    if !initrd.is_file() {
        fs::publish(&initrd, initramfs)
            .map_err(|error| io_error(format!("Could not write `{}`", initrd.display()), error))?;
    }
    let kernel_digest = digest_of(layout, &kernel)?;
    let key = format!("kernel {kernel_digest} {}", agent_key());
    Ok(GuestFiles {
        kernel,
        initrd,
        key,
    })
}

/// The initial file system and its sha256.
#[cfg_attr(
    not(test),
    expect(unused_variables, reason = "only a test has another")
)]
fn initramfs(layout: &Layout) -> (&'static [u8], String) {
    #[cfg(test)]
    if let Some(given) = layout.backends().given() {
        let given = given.initramfs;
        return (
            given,
            Digest::from_sha256(Sha256::digest(given).into()).hex(),
        );
    }
    (INITRAMFS, INITRAMFS_SHA256.to_owned())
}

fn agent_key() -> String {
    format!("initramfs {INITRAMFS_SHA256}")
}

/// Whether a line of a template's key is of this program's agent, with whatever kernel.
pub(crate) fn is_of_this_agent(line: &str) -> bool {
    line.starts_with("kernel ") && line.ends_with(&agent_key())
}

/// The kernel's path: the one asked for, the environment's, or the one beside the program.
///
/// # Errors
/// When it is not there.
pub(crate) fn find_kernel(layout: &Layout, asked: Option<&str>) -> Result<PathBuf> {
    let asked = asked
        .map(PathBuf::from)
        .or_else(|| layout.choices().kernel.clone())
        .or_else(|| env_vars::var_os(env_vars::KERNEL).map(PathBuf::from));
    if let Some(path) = asked {
        return if path.is_file() {
            std::path::absolute(&path)
                .map_err(|error| io_error(format!("Could not resolve `{}`", path.display()), error))
        } else {
            Err(Error::new(
                ErrorKind::InvalidSpec,
                format!("The kernel `{}` is not a file", path.display()),
            ))
        };
    }
    let program = crate::store::program::path(layout)?;
    let beside = program.parent().unwrap_or_else(|| Path::new("/"));
    let candidates = [
        beside.join(KERNEL_NAME),
        beside.join("../lib/cofferdam").join(KERNEL_NAME),
    ];
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "There is no guest kernel `{KERNEL_NAME}` beside `{}`",
                    program.display()
                ),
            )
            .hint("Build one with `cargo xtask kernel`, or name one with `--kernel`")
        })
}

/// The sha256 of a file, remembered by what a change of the file would change.
fn digest_of(layout: &Layout, path: &Path) -> Result<Digest> {
    let failed = |error| io_error(format!("Could not read `{}`", path.display()), error);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let stamp = format!(
        "digest-{:x}-{:x}-{:x}-{:x}-{:x}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let remembered = layout.cache().join(stamp);
    /// A digest is 71 bytes.
    const MAX_BYTES: u64 = 128;
    if let Some(digest) = fs::read_bounded(&remembered, MAX_BYTES)
        .ok()
        .and_then(|text| String::from_utf8(text).ok()?.parse().ok())
    {
        return Ok(digest);
    }
    let digest = hash(path).map_err(failed)?;
    // Only a cache: the next call hashes again.
    let _ = fs::publish_volatile(&remembered, digest.to_string().as_bytes());
    Ok(digest)
}

fn hash(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_sha256(hasher.finalize().into())),
            length => hasher.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_digest_and_an_unchanged_one_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, b"one").unwrap();
        let one = digest_of(&layout, &path).unwrap();
        assert_eq!(digest_of(&layout, &path).unwrap(), one);
        std::fs::write(&path, b"three").unwrap();
        assert_ne!(digest_of(&layout, &path).unwrap(), one);
    }

    #[test]
    fn a_missing_kernel_is_the_users_to_mend() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).unwrap();
        let error = find_kernel(&layout, Some("/nonexistent/vmlinux")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
    }
}
