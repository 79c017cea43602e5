//! The workload's root file system, built in a mount namespace of its own.
//!
//! Everything is mounted before the start, so that a template captured after `MountRoot` holds
//! it; only `/proc` is left to the workload itself, since it shows the PID namespace of whoever
//! mounts it. The finished namespace has the root moved over the initramfs: entering it is one
//! `setns`, which also sets the root directory.
//!
//! The image is hostile. Its paths are resolved with `openat2` inside the root, or step by step
//! by [`resolve`]; `/dev`, `/proc` and `/sys` must be directories and not links.

mod devices;
mod disk;
mod etc;
mod overlay;
pub(crate) mod resolve;

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use cofferdam_proto::{FailureKind, RootSpec, TmpfsSpec};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags, mount, mount_move, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    cgroup,
    failure::{OrFail, Result, failure},
    identity::Names,
};

pub(crate) use disk::freeze;
pub(crate) use etc::Etc;

/// Where the root is put together, before it is moved to `/`.
const ROOT: &str = "/root";

/// A mounted root.
#[derive(Debug)]
pub(crate) struct Root {
    /// The root directory; paths below it are resolved with [`resolve`].
    pub(crate) directory: OwnedFd,
    /// The mount namespace that has it as `/`.
    pub(crate) mount_namespace: OwnedFd,
    /// The cgroup namespace that `/sys/fs/cgroup` shows.
    pub(crate) cgroup_namespace: OwnedFd,
    /// The cgroup that its processes are born into.
    pub(crate) cgroup: OwnedFd,
    /// The root of its `/dev/pts`.
    pub(crate) pts: OwnedFd,
    /// The files of `/etc` that say who the machine is.
    pub(crate) etc: Etc,
    /// The disk that takes the writes.
    pub(crate) upper: Option<OwnedFd>,
}

impl Root {
    /// Mounts what `spec` says. The agent's own view stays as it is; after a failure nothing is
    /// left mounted.
    pub(crate) fn mount(spec: &RootSpec, names: &Names) -> Result<Self> {
        let failed = || "Could not make the workload's mount namespace";
        let outer = File::open("/proc/self/ns/mnt").or_fail(FailureKind::Mount, failed)?;
        let (cgroup_namespace, (directory, pts, etc, upper, mount_namespace)) =
            cgroup::in_new_namespace(|| {
                // SAFETY: the process has one thread; a mount namespace changes no descriptor and
                // no memory.
                unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
                    .or_fail(FailureKind::Mount, failed)?;
                let built = build(spec, names);
                // Back in any case; a namespace without a descriptor goes with its mounts.
                move_into_link_name_space(outer.as_fd(), Some(LinkNameSpaceType::Mount))
                    .or_fail(FailureKind::Mount, failed)?;
                built
            })?;
        Ok(Self {
            directory,
            mount_namespace,
            cgroup_namespace,
            cgroup: cgroup::open()?,
            pts,
            etc,
            upper,
        })
    }
}

type Built = (OwnedFd, OwnedFd, Etc, Option<OwnedFd>, OwnedFd);

/// Builds the root in the current mount namespace and moves it to `/`.
fn build(spec: &RootSpec, names: &Names) -> Result<Built> {
    let failed = || "Could not make the workload's root";
    let kind = FailureKind::Mount;
    let mount_namespace = File::open("/proc/self/ns/mnt").or_fail(kind, failed)?;
    let upper = overlay::mount_at(ROOT, spec.upper)?;
    let root = open_directory(ROOT)?;
    for name in ["dev", "proc", "sys"] {
        resolve::require_directory(&root, name)?;
    }
    devices::mount_at(ROOT, spec.shm_bytes)?;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Writable, unlike Docker's: this kernel is the sandbox's own, and root could mount another.
    mount_on(&format!("{ROOT}/sys"), "sysfs", strict, "")?;
    mount_on(&format!("{ROOT}/sys/fs/cgroup"), "cgroup2", strict, "")?;
    let etc = Etc::mount_at(&root, names)?;
    for tmpfs in &spec.tmpfs {
        mount_tmpfs(&root, tmpfs)?;
    }
    overlay::seal(ROOT, spec.upper)?;
    let pts = open_directory(&format!("{ROOT}/dev/pts"))?;
    // The agent's own file systems are covered by the move and would only be clutter.
    for path in ["/sys/fs/cgroup", "/sys", "/proc", "/dev"] {
        unmount(path, UnmountFlags::DETACH)
            .or_fail(kind, || format!("Could not leave `{path}`"))?;
    }
    rustix::process::chdir(ROOT).or_fail(kind, failed)?;
    mount_move(".", "/").or_fail(kind, failed)?;
    Ok((root, pts, etc, upper, OwnedFd::from(mount_namespace)))
}

fn mount_tmpfs(root: &OwnedFd, spec: &TmpfsSpec) -> Result<()> {
    if !spec.target.starts_with('/') {
        let message = format!(
            "Target `{}` of a tmpfs is not an absolute path",
            spec.target
        );
        return Err(failure(FailureKind::Mount, message));
    }
    let target = resolve::ensure(root, &spec.target, resolve::Kind::Directory)
        .or_fail(FailureKind::Mount, || {
            format!("Could not make `{}`", spec.target)
        })?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, !spec.exec);
    flags.set(MountFlags::RDONLY, spec.read_only);
    let mut options = format!("mode={:o}", spec.mode & 0o7777);
    if let Some(bytes) = spec.size_bytes {
        options.push_str(&format!(",size={bytes}"));
    }
    mount_on(&through(&target), "tmpfs", flags, &options).map_err(|cause| {
        failure(
            cause.kind,
            format!("{} (tmpfs `{}`)", cause.message, spec.target),
        )
    })
}

/// The path of an open file, for calls that take no descriptor.
fn through(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn mount_on(target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    let failed = || {
        format!(
            "Could not mount {kind} on `{}`",
            target.strip_prefix(ROOT).unwrap_or(target)
        )
    };
    let options = std::ffi::CString::new(options).or_fail(FailureKind::Mount, failed)?;
    mount(kind, target, kind, flags, options.as_c_str()).or_fail(FailureKind::Mount, failed)
}

fn open_directory(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .or_fail(FailureKind::Mount, || format!("Could not open `{path}`"))
}
