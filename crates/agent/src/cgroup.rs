//! The workload's cgroup: made at boot, limited at the start, frozen for a capture, killed at the
//! shutdown.
//!
//! `nsdelegate` makes the workload's cgroup namespace a boundary: it may divide what it has and
//! cannot lift its own limits. The agent stays in the root cgroup.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use cofferdam_proto::FailureKind;
use cofferdam_types::ResourceLimits;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    mount::{MountFlags, mount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    failure::{OrFail, Result},
    log,
};

const ROOT: &str = "/sys/fs/cgroup";
const WORKLOAD: &str = "/sys/fs/cgroup/workload";
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Length of a quota's period in microseconds, the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// Microseconds in a period for one thousandth of a processor.
const QUOTA_US_PER_MILLI: u64 = PERIOD_US / 1000;

/// How long killed processes may take to leave the cgroup; only those stuck in the kernel do.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a process may take to stop; only one that waits for a device takes longer than a
/// moment, and a live fork would rather fail than hold the others up.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);

/// Mounts the hierarchy and makes the workload's cgroup.
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
    fs::create_dir(WORKLOAD).or_fail(
        FailureKind::Internal,
        || "Could not make the workload's cgroup",
    )
}

/// The workload's cgroup, for `CLONE_INTO_CGROUP`.
pub(crate) fn open() -> Result<OwnedFd> {
    File::open(WORKLOAD).map(OwnedFd::from).or_fail(
        FailureKind::Internal,
        || "Could not open the workload's cgroup",
    )
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

/// Sets the workload's limits.
pub(crate) fn limit(limits: &ResourceLimits) -> Result<()> {
    for (file, value) in settings(limits) {
        set(file, &value).or_fail(FailureKind::Limits, || {
            format!("Could not set the limit `{file}` to `{value}`")
        })?;
    }
    Ok(())
}

fn settings(limits: &ResourceLimits) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(pids) = limits.pids {
        settings.push(("pids.max", pids.to_string()));
    }
    if let Some(shares) = limits.cpu_shares {
        settings.push(("cpu.weight", weight_of_shares(shares).to_string()));
    }
    if let Some(millis) = limits.cpu_quota_millis {
        let quota = u64::from(millis) * QUOTA_US_PER_MILLI;
        settings.push(("cpu.max", format!("{quota} {PERIOD_US}")));
    }
    if let Some(cpuset) = &limits.cpuset {
        settings.push(("cpuset.cpus", cpuset.clone()));
    }
    if let Some(reservation) = limits.memory_reservation {
        settings.push(("memory.low", reservation.bytes().to_string()));
    }
    settings
}

/// Docker's cpu-shares (2 to 262144, default 1024) as a cgroup v2 weight (1 to 10000, default
/// 100): the linear map of Kubernetes KEP-2254, which runc and crun share.
fn weight_of_shares(shares: u32) -> u32 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Kills all that runs in the workload's cgroup and waits until it is gone.
pub(crate) fn kill() -> Result<()> {
    let failed = || "Could not kill the workload";
    set("cgroup.kill", "1").or_fail(FailureKind::Internal, failed)?;
    if wait_until("populated 0", KILL_TIMEOUT).or_fail(FailureKind::Internal, failed)? {
        return Ok(());
    }
    Err("Its processes do not end").or_fail(FailureKind::Internal, failed)
}

/// Stops all that runs in the workload's cgroup, at the border of the kernel: nothing that is
/// stopped holds one of its locks. Lets all go on again when one does not stop in time.
pub(crate) fn freeze() -> Result<()> {
    let failed = || "Could not freeze the workload";
    let kind = FailureKind::Internal;
    set("cgroup.freeze", "1").or_fail(kind, failed)?;
    match wait_until("frozen 1", FREEZE_TIMEOUT) {
        Ok(true) => Ok(()),
        outcome => {
            thaw()?;
            outcome.or_fail(kind, failed)?;
            Err("One of its processes is stuck in the kernel").or_fail(kind, failed)
        }
    }
}

/// A cgroup beside the workload's, for a command that runs while that one is frozen.
#[derive(Debug)]
pub(crate) struct Aside {
    directory: OwnedFd,
}

const ASIDE: &str = "/sys/fs/cgroup/aside";

impl Aside {
    /// Makes the cgroup, or takes the one that is there: an earlier one may not have been empty
    /// in time.
    pub(crate) fn make() -> Result<Self> {
        let failed = || "Could not make a cgroup";
        let kind = FailureKind::Internal;
        match fs::create_dir(ASIDE) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).or_fail(kind, failed);
            }
            _ => {}
        }
        let directory = File::open(ASIDE).or_fail(kind, failed)?;
        Ok(Self {
            directory: directory.into(),
        })
    }

    /// Kills all that runs in it and removes it once it is empty.
    pub(crate) fn kill(&self, timeout: Duration) -> Result<()> {
        let failed = || "Could not end a command";
        let kind = FailureKind::Internal;
        fs::write(format!("{ASIDE}/cgroup.kill"), "1").or_fail(kind, failed)?;
        if !wait_until_in(ASIDE, "populated 0", timeout).or_fail(kind, failed)? {
            return Err("Its processes do not end").or_fail(kind, failed);
        }
        fs::remove_dir(ASIDE).or_fail(kind, failed)
    }
}

impl AsFd for Aside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Lets all go on.
pub(crate) fn thaw() -> Result<()> {
    set("cgroup.freeze", "0").or_fail(FailureKind::Internal, || "Could not thaw the workload")
}

fn set(file: &str, value: &str) -> std::io::Result<()> {
    fs::write(format!("{WORKLOAD}/{file}"), value)
}

/// Waits until `line` is one of the workload's `cgroup.events`; `false` when it is not in time.
fn wait_until(line: &str, timeout: Duration) -> std::io::Result<bool> {
    wait_until_in(WORKLOAD, line, timeout)
}

fn wait_until_in(cgroup: &str, line: &str, timeout: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + timeout;
    let mut text = String::new();
    loop {
        // A change of the file is an exceptional condition on the descriptor that last read it.
        let mut events = File::open(format!("{cgroup}/cgroup.events"))?;
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
    use cofferdam_types::ByteSize;

    use super::*;

    #[test]
    fn shares_map_onto_the_whole_range_of_weights() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (1024, 39),
            (2048, 79),
            (262_144, 10_000),
            (u32::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn limits_become_the_kernels_files() {
        let limits = ResourceLimits {
            pids: Some(64),
            cpu_quota_millis: Some(1500),
            cpuset: Some("0-1".to_owned()),
            memory_reservation: Some(ByteSize::from_mib(1)),
            ..ResourceLimits::default()
        };
        let expected = [
            ("pids.max", "64"),
            ("cpu.max", "150000 100000"),
            ("cpuset.cpus", "0-1"),
            ("memory.low", "1048576"),
        ];
        let expected = expected.map(|(file, value)| (file, value.to_owned()));
        assert_eq!(settings(&limits), expected);
        assert!(settings(&ResourceLimits::default()).is_empty());
    }
}
