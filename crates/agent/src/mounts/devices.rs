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
    mount::MountFlags,
};

use super::mount_on;
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

/// Mounts and fills `/dev` of `root`, which must be a directory.
pub(super) fn mount_at(root: &str, shm_bytes: u64) -> Result<()> {
    let dev = format!("{root}/dev");
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
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let shm = format!("mode=1777,size={shm_bytes}");
    for (name, kind, flags, options) in [
        ("shm", "tmpfs", strict, shm.as_str()),
        ("mqueue", "mqueue", strict, ""),
        // gid 5 is `tty` in every distribution.
        (
            "pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
    ] {
        let target = format!("{dev}/{name}");
        make_directory(&target)?;
        mount_on(&target, kind, flags, options)?;
    }
    Ok(())
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
