//! The workload's `/dev`: a tmpfs with the devices that every container has, and the two that
//! this kernel offers beside them.
//!
//! Source: OCI runtime specification, config-linux.md "Default Devices".

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

use cofferdam_proto::FailureKind;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, mount_remount},
};

use super::{STRICT, mount_on};
use crate::failure::{OrFail, Result};

/// Name, mode, major and minor number; Documentation/admin-guide/devices.txt.
const NODES: [(&str, u32, u32, u32); 7] = [
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("full", 0o666, 1, 7),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("tty", 0o666, 5, 0),
    ("console", 0o600, 5, 1),
];

/// Devices that are there only if the kernel has them, by their path in the agent's devtmpfs.
const OPTIONAL: [&str; 2] = ["fuse", "net/tun"];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Size of `/dev/shm` until a root says otherwise; Docker's default.
const SHM_BYTES: u64 = 64 << 20;

/// Mounts and fills `dev` below `stage`.
pub(super) fn mount_at(stage: &str) -> Result<()> {
    let dev = format!("{stage}/dev");
    fs::create_dir_all(&dev).or_fail(FailureKind::Mount, || format!("Could not make `{dev}`"))?;
    let flags = MountFlags::NOSUID | MountFlags::STRICTATIME;
    mount_on(&dev, "tmpfs", flags, "mode=755,size=65536k")?;
    for (name, mode, major, minor) in NODES {
        make_node(&dev, name, mode, makedev(major, minor))?;
    }
    for name in OPTIONAL {
        let Ok(node) = fs::metadata(format!("/dev/{name}")) else {
            continue;
        };
        make_node(&dev, name, 0o666, node.rdev())?;
    }
    for (target, name) in LINKS {
        symlink(target, format!("{dev}/{name}")).or_fail(FailureKind::Mount, || {
            format!("Could not make `/dev/{name}`")
        })?;
    }
    for (name, kind, flags, options) in [
        (
            "shm",
            "tmpfs",
            STRICT,
            format!("mode=1777,size={SHM_BYTES}"),
        ),
        ("mqueue", "mqueue", STRICT, String::new()),
        // gid 5 is `tty` in every distribution.
        (
            "pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5".to_owned(),
        ),
    ] {
        let target = format!("{dev}/{name}");
        make_directory(&target)?;
        mount_on(&target, kind, flags, &options)?;
    }
    Ok(())
}

/// Gives `dev/shm` below `stage` its size.
pub(super) fn resize_shm(stage: &str, bytes: u64) -> Result<()> {
    if bytes == SHM_BYTES {
        return Ok(());
    }
    mount_remount(format!("{stage}/dev/shm"), STRICT, format!("size={bytes}"))
        .or_fail(FailureKind::Mount, || "Could not resize `/dev/shm`")
}

fn make_node(dev: &str, name: &str, mode: u32, device: u64) -> Result<()> {
    let path = format!("{dev}/{name}");
    if let Some((parent, _)) = name.rsplit_once('/') {
        make_directory(&format!("{dev}/{parent}"))?;
    }
    mknodat(
        CWD,
        &path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(mode),
        device,
    )
    .or_fail(FailureKind::Mount, || {
        format!("Could not make `/dev/{name}`")
    })
}

fn make_directory(path: &str) -> Result<()> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))
        .or_fail(FailureKind::Mount, || format!("Could not make `{path}`"))
}
