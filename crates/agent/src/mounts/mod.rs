//! The workload's root file system, built in a mount namespace of its own.
//!
//! In two steps, since what runs after a template's restore is dear. The [`Stage`] is made at
//! boot: namespaces, `/dev`, `/sys` and the files of `/etc`, all that needs no image. `MountRoot`
//! then mounts the image and moves these into it. Only `/proc` is left to the workload itself,
//! since it shows the PID namespace of whoever mounts it. The finished namespace has the root
//! moved over the initramfs: entering it is one `setns`, which also sets the root directory.
//!
//! The image is hostile. Its paths are resolved with `openat2` inside the root, or step by step
//! by [`resolve`]; `/dev`, `/proc` and `/sys` must be directories and not links.

mod devices;
mod disk;
mod etc;
mod generation;
mod overlay;
pub(crate) mod resolve;
mod spare;
mod trim;
mod trust;
mod warm;

use std::{
    fs::{self, File},
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

use disk::Disks;
pub(crate) use disk::{freeze, thaw};
pub(crate) use etc::Etc;
pub(crate) use generation::GenerationFile;
pub(crate) use trim::{commit, empty_journal, trim};
pub(crate) use trust::{install as install_trust, write_own as write_own_trust};
pub(crate) use warm::warm;

/// Where the root is put together, before it is moved to `/`.
const ROOT: &str = "/root";

/// Where the parts that need no image wait for it.
const STAGE: &str = "/stage";

/// All of a root that needs no image, and the namespaces that it is in.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The mount namespace that has the root as `/` once it is mounted.
    pub(crate) mount_namespace: OwnedFd,
    /// The cgroup namespace that `/sys/fs/cgroup` shows.
    pub(crate) cgroup_namespace: OwnedFd,
    /// The cgroups that processes start in.
    pub(crate) groups: cgroup::Groups,
    /// The root of `/dev/pts`.
    pub(crate) pts: OwnedFd,
    /// The files of `/etc` that say who the machine is.
    pub(crate) etc: Etc,
    /// The file that tells programs that they were copied.
    pub(crate) generation: GenerationFile,
    disks: Disks,
    /// The agent's own mount namespace.
    outer: OwnedFd,
}

/// A mounted root.
#[derive(Debug)]
pub(crate) struct Root {
    /// The root directory; paths below it are resolved with [`resolve`].
    pub(crate) directory: OwnedFd,
    /// The disk that takes the writes.
    pub(crate) upper: OwnedFd,
}

impl Stage {
    /// Makes the namespaces and what they have in any root. The agent's own view stays as it is.
    pub(crate) fn prepare(names: &Names) -> Result<Self> {
        let disks = Disks::find()?;
        let outer = own_namespace()?;
        let (cgroup_namespace, (mount_namespace, pts, etc, generation)) =
            cgroup::in_new_namespace(|| {
                // SAFETY: the process has one thread; a mount namespace changes no descriptor and no
                // memory.
                unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
                    .or_fail(FailureKind::Mount, || "Could not make a mount namespace")?;
                let parts = own_namespace().and_then(|namespace| {
                    devices::mount_at(STAGE)?;
                    // Writable, unlike Docker's: this kernel is the sandbox's own, and root could
                    // mount another.
                    mount_new(&format!("{STAGE}/sys"), "sysfs")?;
                    mount_on(&format!("{STAGE}/sys/fs/cgroup"), "cgroup2", STRICT, "")?;
                    let pts = open_directory(&format!("{STAGE}/dev/pts"))?;
                    let generation = GenerationFile::prepare()?;
                    Ok((namespace, pts, Etc::prepare(names)?, generation))
                });
                enter(&outer)?;
                parts
            })?;
        Ok(Self {
            mount_namespace,
            cgroup_namespace,
            groups: cgroup::Groups::open()?,
            pts,
            etc,
            generation,
            disks,
            outer,
        })
    }

    /// Mounts the root that `spec` says, once; [`Self::adapt`] is for one that is mounted. The
    /// agent's own view stays as it is.
    pub(crate) fn mount_root(&self, spec: &RootSpec) -> Result<Root> {
        enter(&self.mount_namespace)?;
        let root = self.build(spec);
        enter(&self.outer)?;
        root
    }

    /// Gives a root that a template has mounted what a sandbox wants besides: its size of
    /// `/dev/shm`, its tmpfs mounts, and a root that nobody can write to.
    pub(crate) fn adapt(&self, root: &Root, spec: &RootSpec) -> Result<()> {
        enter(&self.mount_namespace)?;
        let adapted = devices::resize_shm("", spec.shm_bytes).and_then(|()| {
            let mut mounts = spec.tmpfs.iter();
            mounts.try_for_each(|tmpfs| mount_tmpfs(&root.directory, tmpfs))?;
            overlay::seal("/", spec.upper)
        });
        enter(&self.outer)?;
        adapted
    }

    /// Takes the topmost `/proc` off the mounted root.
    pub(crate) fn unmount_proc(&self) -> Result<()> {
        enter(&self.mount_namespace)?;
        let unmounted = unmount("/proc", UnmountFlags::DETACH)
            .or_fail(FailureKind::Mount, || "Could not unmount `/proc`");
        enter(&self.outer)?;
        unmounted
    }

    /// Builds the root in the current mount namespace and moves it to `/`.
    fn build(&self, spec: &RootSpec) -> Result<Root> {
        let failed = || "Could not make the workload's root";
        let kind = FailureKind::Mount;
        let upper = overlay::mount_at(ROOT, &self.disks)?;
        let directory = open_directory(ROOT)?;
        for name in ["dev", "proc", "sys"] {
            resolve::require_directory(&directory, name)?;
        }
        devices::resize_shm(STAGE, spec.shm_bytes)?;
        for name in ["dev", "sys"] {
            mount_move(format!("{STAGE}/{name}"), format!("{ROOT}/{name}"))
                .or_fail(kind, failed)?;
        }
        self.etc.bind(&directory)?;
        for tmpfs in &spec.tmpfs {
            mount_tmpfs(&directory, tmpfs)?;
        }
        self.generation.bind(&directory)?;
        overlay::seal(ROOT, spec.upper)?;
        // The agent's own file systems are covered by the move and would only be clutter.
        for path in ["/proc", "/dev"] {
            unmount(path, UnmountFlags::DETACH)
                .or_fail(kind, || format!("Could not leave `{path}`"))?;
        }
        rustix::process::chdir(ROOT).or_fail(kind, failed)?;
        mount_move(".", "/").or_fail(kind, failed)?;
        Ok(Root { directory, upper })
    }
}

/// What keeps programs, devices and set-uid bits of a file system from working.
const STRICT: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

fn own_namespace() -> Result<OwnedFd> {
    File::open("/proc/self/ns/mnt")
        .map(OwnedFd::from)
        .or_fail(FailureKind::Mount, || "Could not open a mount namespace")
}

fn enter(namespace: &OwnedFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .or_fail(FailureKind::Mount, || "Could not enter a mount namespace")
}

fn mount_new(target: &str, kind: &str) -> Result<()> {
    fs::create_dir_all(target)
        .or_fail(FailureKind::Mount, || format!("Could not make `{target}`"))?;
    mount_on(target, kind, STRICT, "")
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
    let (uid, gid) = spec.owner;
    for (name, id) in [("uid", uid), ("gid", gid)] {
        if let Some(id) = id {
            options.push_str(&format!(",{name}={id}"));
        }
    }
    // By the working directory: a root that is finished has no `/proc` to name an open file by.
    rustix::process::fchdir(&target).or_fail(FailureKind::Mount, || {
        format!("Could not enter `{}`", spec.target)
    })?;
    mount_on(".", "tmpfs", flags, &options).map_err(|cause| {
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
