//! The overlay: the image's EROFS below, the sandbox's writes above.
//!
//! Options (Documentation/filesystems/overlayfs.rst): `xino=on` gives all files one device number,
//! so that `find -xdev` and hard-link detection work; `redirect_dir=on` lets programs rename the
//! image's directories; `index=off,metacopy=off` keep an upper readable by itself, as in Docker.

use std::{
    ffi::CStr,
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::Path,
};

use cofferdam_proto::{FailureKind, UpperDevice};
use rustix::mount::{MountFlags, mount, mount_remount};

use super::{disk::Disks, mount_on, spare};
use crate::failure::{OrFail, Result};

const LOWER: &str = "/lower";
const WRITES: &str = "/upper";
/// Seconds between two commits of the journal. When the machine is killed, what was written before
/// the last one and not synced is lost; the kernel's default is five. And no thread that reads all
/// block bitmaps and clears inode tables after a mount: it would do so in every copy, and what it
/// clears is a hole of the disk's file already. Source: ext4(5), Documentation/admin-guide/ext4.rst.
const UPPER_OPTIONS: &CStr = c"commit=2,noinit_itable,no_prefetch_block_bitmaps";
const OPTIONS: &str = "lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work,xino=on,redirect_dir=on,index=off,metacopy=off";

/// Mounts the overlay on `target`; the descriptor keeps the disk that takes the writes at hand.
pub(super) fn mount_at(target: &str, disks: &Disks) -> Result<OwnedFd> {
    for path in [LOWER, WRITES, target] {
        fs::create_dir_all(path)
            .or_fail(FailureKind::Mount, || format!("Could not make `{path}`"))?;
    }
    mount_disk(disks.root()?, LOWER, "erofs", MountFlags::RDONLY, None)?;
    // A root that is to be read-only has one too, for the mount points that the image lacks.
    mount_disk(
        disks.upper()?,
        WRITES,
        "ext4",
        MountFlags::NOATIME,
        Some(UPPER_OPTIONS),
    )?;
    prepare_upper()?;
    let mount = || mount_on(target, "overlay", MountFlags::empty(), OPTIONS);
    spare::with_room(Path::new(WRITES), mount)?;
    open_upper()
}

/// Makes the root read-only if it has to be, now that all mount points are there.
pub(super) fn seal(target: &str, upper: UpperDevice) -> Result<()> {
    match upper {
        UpperDevice::Disk => Ok(()),
        UpperDevice::ReadOnly => mount_remount(target, MountFlags::RDONLY, "")
            .or_fail(FailureKind::Mount, || "Could not make the root read-only"),
    }
}

fn mount_disk(
    node: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<()> {
    mount(node, target, kind, flags, options).or_fail(FailureKind::Mount, || {
        format!("Could not mount the disk `{node}` as {kind}")
    })
}

/// Makes overlayfs's two directories. The upper's own attributes are those of the merged root, so
/// a fresh one takes over the image's.
fn prepare_upper() -> Result<()> {
    let failed = || "Could not prepare the upper";
    let kind = FailureKind::Mount;
    let [upper, work] = ["upper", "work"].map(|name| format!("{WRITES}/{name}"));
    fs::create_dir_all(&work).or_fail(kind, failed)?;
    fs::create_dir_all(&upper).or_fail(kind, failed)?;
    if fs::read_dir(&upper).or_fail(kind, failed)?.next().is_none() {
        let image = fs::metadata(LOWER).or_fail(kind, failed)?;
        let fresh = fs::metadata(&upper).or_fail(kind, failed)?;
        // Mostly they are equal, and the first write to a disk is dear.
        if (fresh.uid(), fresh.gid()) != (image.uid(), image.gid()) {
            chown(&upper, Some(image.uid()), Some(image.gid())).or_fail(kind, failed)?;
        }
        if fresh.mode() != image.mode() {
            let mode = fs::Permissions::from_mode(image.mode() & 0o7777);
            fs::set_permissions(&upper, mode).or_fail(kind, failed)?;
        }
    }
    Ok(())
}

/// Opened for reading, since `FIFREEZE` does not take an `O_PATH` descriptor.
fn open_upper() -> Result<OwnedFd> {
    fs::File::open(WRITES)
        .map(OwnedFd::from)
        .or_fail(FailureKind::Mount, || "Could not open the upper")
}
