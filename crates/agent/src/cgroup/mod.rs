//! The sandbox's cgroups: made at boot, limited at the start, frozen for a capture, killed at the
//! shutdown.
//!
//! - `workload` holds the workload and all execs. It is the root of their cgroup namespace.
//! - `reserve` takes an exec when `workload` is at the default limit of processes, so that a fork
//!   bomb can be looked at and ended from inside.
//!
//! `nsdelegate` makes the workload's cgroup namespace a boundary: it may divide what it has and
//! cannot lift its own limits. The agent stays in the root cgroup, outside of all limits.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst.

mod hook_group;
mod limits;
mod oom;
mod thrash;
mod throttle;

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cofferdam_proto::FailureKind;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    mount::{MountFlags, mount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

pub(crate) use self::{
    hook_group::HookGroup,
    limits::{limit, limit_again},
    oom::OomWatch,
    thrash::ThrashWatch,
    throttle::CpuThrottle,
};
use crate::{
    failure::{OrFail, Result},
    log,
};

const ROOT: &str = "/sys/fs/cgroup";
const WORKLOAD: &str = "/sys/fs/cgroup/workload";
const RESERVE: &str = "/sys/fs/cgroup/reserve";
const GROUPS: [&str; 2] = [WORKLOAD, RESERVE];
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// How long killed processes may take to leave the cgroup; only those stuck in the kernel do.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process may take to stop; only one that waits for a device takes longer than a
/// moment, and a live fork would rather fail than hold the others up.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);

/// Mounts the hierarchy, makes the cgroups and gives them their default limits.
pub(crate) fn prepare() -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("cgroup2", ROOT, "cgroup2", flags, c"nsdelegate")
        .or_fail(FailureKind::Mount, || "Could not mount cgroup2")?;
    for controller in CONTROLLERS {
        // A user's kernel may lack one; then the limit that needs it fails, and only it.
        if let Err(error) = fs::write(
            format!("{ROOT}/cgroup.subtree_control"),
            format!("+{controller}"),
        ) {
            log::error(&format!(
                "Kernel has no cgroup controller `{controller}`: {error}"
            ));
        }
    }
    for group in GROUPS {
        fs::create_dir(group).or_fail(FailureKind::Internal, || {
            format!("Could not make the cgroup `{group}`")
        })?;
    }
    limits::set_defaults();
    Ok(())
}

/// The cgroups that a process can start in, for `CLONE_INTO_CGROUP`.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) workload: OwnedFd,
    reserve: OwnedFd,
    /// The workload's `pids.current`.
    count: Option<File>,
}

impl Groups {
    /// Opens both.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self {
            workload: open(Path::new(WORKLOAD))?,
            reserve: open(Path::new(RESERVE))?,
            count: File::open(format!("{WORKLOAD}/pids.current")).ok(),
        })
    }

    /// The reserve, unless the user has set a limit of processes: that one counts execs too.
    pub(crate) fn reserve(&self) -> Option<&OwnedFd> {
        limits::has_reserve().then_some(&self.reserve)
    }

    /// The reserve, if the workload's own processes leave an exec no room.
    pub(crate) fn reserve_if_crowded(&self) -> Option<&OwnedFd> {
        let mut text = [0; 16];
        let length = rustix::io::pread(self.count.as_ref()?, &mut text, 0).ok()?;
        let count = std::str::from_utf8(text.get(..length)?).ok()?;
        let count: u32 = count.trim().parse().ok()?;
        limits::is_crowded(count).then_some(&self.reserve)
    }
}

fn open(group: &Path) -> Result<OwnedFd> {
    File::open(group)
        .map(OwnedFd::from)
        .or_fail(FailureKind::Internal, || {
            format!("Could not open the cgroup `{}`", group.display())
        })
}

/// The cgroup that the process of `pidfd` is in now. A workload that divides its cgroup (systemd,
/// dockerd) leaves no place in it, but there is always one beside its own first process.
pub(crate) fn of_process(pidfd: &OwnedFd) -> Result<OwnedFd> {
    let failed = || "Could not find the workload's cgroup";
    let kind = FailureKind::Internal;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))
        .or_fail(kind, failed)?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<u32>().ok())
        .ok_or("It has ended")
        .or_fail(kind, failed)?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).or_fail(kind, failed)?;
    let path = group_path(&groups)
        .ok_or("It is in no cgroup")
        .or_fail(kind, failed)?;
    open(&path)
}

/// The path of the one cgroup in `/proc/PID/cgroup`. The kernel lets no name hold a line feed.
fn group_path(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(ROOT).join(path))
}

/// Takes back what a process that has ended has divided the workload's cgroup into, so that it
/// can hold processes again.
pub(crate) fn undivide() {
    for controller in CONTROLLERS {
        // One that was not handed down, or is still in use below, stays; the start says so.
        let _ = set(
            WORKLOAD,
            "cgroup.subtree_control",
            &format!("-{controller}"),
        );
    }
}

/// Runs `inside` in a new cgroup namespace that has the workload's cgroup as its root, and
/// returns the namespace with what `inside` returned. The caller is back where it was after.
pub(crate) fn in_new_namespace<T>(inside: impl FnOnce() -> Result<T>) -> Result<(OwnedFd, T)> {
    let failed = || "Could not make the workload's cgroup namespace";
    let kind = FailureKind::Internal;
    let procs = |dir: &str| {
        File::options()
            .write(true)
            .open(format!("{dir}/cgroup.procs"))
    };
    // Opened first: what may be written through a file is decided by the namespace of its opening.
    let back = procs(ROOT).or_fail(kind, failed)?;
    let into = procs(WORKLOAD).or_fail(kind, failed)?;
    let outer = File::open("/proc/self/ns/cgroup").or_fail(kind, failed)?;
    let enter = |mut file: &File| std::io::Write::write_all(&mut file, b"0");
    enter(&into).or_fail(kind, failed)?;
    // SAFETY: the process has one thread; a cgroup namespace changes no descriptor and no memory.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.or_fail(kind, failed);
    let result = unshared.and_then(|()| {
        let namespace = File::open("/proc/self/ns/cgroup").or_fail(kind, failed)?;
        Ok((OwnedFd::from(namespace), inside()?))
    });
    move_into_link_name_space(outer.as_fd(), Some(LinkNameSpaceType::ControlGroup))
        .or_fail(kind, failed)?;
    enter(&back).or_fail(kind, failed)?;
    result
}

/// Kills all that runs in the cgroups and waits until it is gone.
pub(crate) fn kill() -> Result<()> {
    let failed = || "Could not kill the workload";
    set_all("cgroup.kill", "1").or_fail(FailureKind::Internal, failed)?;
    if wait_for_all("populated 0", KILL_TIMEOUT).or_fail(FailureKind::Internal, failed)? {
        return Ok(());
    }
    Err("Its processes do not end").or_fail(FailureKind::Internal, failed)
}

/// Stops all that runs in the cgroups, at the border of the kernel: nothing that is stopped holds
/// one of its locks. Lets all go on again when one does not stop in time.
pub(crate) fn freeze() -> Result<()> {
    let failed = || "Could not freeze the workload";
    let kind = FailureKind::Internal;
    set_all("cgroup.freeze", "1").or_fail(kind, failed)?;
    match wait_for_all("frozen 1", FREEZE_TIMEOUT) {
        Ok(true) => Ok(()),
        outcome => {
            thaw()?;
            outcome.or_fail(kind, failed)?;
            Err("One of its processes is stuck in the kernel").or_fail(kind, failed)
        }
    }
}

/// Lets all go on.
pub(crate) fn thaw() -> Result<()> {
    set_all("cgroup.freeze", "0").or_fail(FailureKind::Internal, || "Could not thaw the workload")
}

fn set(group: &str, file: &str, value: &str) -> std::io::Result<()> {
    fs::write(format!("{group}/{file}"), value)
}

fn set_all(file: &str, value: &str) -> std::io::Result<()> {
    GROUPS
        .into_iter()
        .try_for_each(|group| set(group, file, value))
}

/// Waits until `line` is one of `cgroup.events` in every group; `false` when it is not in time.
fn wait_for_all(line: &str, timeout: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + timeout;
    for group in GROUPS {
        if !wait_until(group, line, deadline)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn wait_until(group: &str, line: &str, deadline: Instant) -> std::io::Result<bool> {
    let mut text = String::new();
    loop {
        // A change of the file is an exceptional condition on the descriptor that last read it.
        let mut events = File::open(format!("{group}/cgroup.events"))?;
        text.clear();
        events.read_to_string(&mut text)?;
        if text.lines().any(|known| known == line) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(std::io::Error::other)?;
        let mut fds = [PollFd::new(&events, PollFlags::PRI)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_the_cgroup_that_it_has_moved_to() {
        let found = |text| group_path(text);
        let expected = Path::new("/sys/fs/cgroup/workload/init.scope");
        assert_eq!(
            found("0::/workload/init.scope\n").as_deref(),
            Some(expected)
        );
        assert_eq!(
            found("0::/\n").as_deref(),
            Some(Path::new("/sys/fs/cgroup/"))
        );
        for text in ["", "1:cpu:/workload\n", "0::"] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
