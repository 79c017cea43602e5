//! Limits of the sandbox's cgroups: those that it always has, and those that the user asks for.
//!
//! The guest's kernel and the agent need room of their own. Without it a workload that takes all
//! memory ends in a panic, and a fork bomb leaves no process number for an exec. So the workload
//! always has less memory than the guest and fewer processes than the kernel allows.

use std::{
    fs,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use cofferdam_proto::FailureKind;
use cofferdam_types::{ByteSize, ResourceLimits};

use super::{RESERVE, WORKLOAD, set};
use crate::{
    failure::{OrFail, Result, failure},
    log,
};

/// Length of a quota's period in microseconds, the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// Microseconds in a period for one thousandth of a processor.
const QUOTA_US_PER_MILLI: u64 = PERIOD_US / 1000;

/// Processes that the agent and the kernel's own threads can always start, beside the reserve.
const AGENT_PIDS: u32 = 128;

/// Processes of the reserve: a shell with a pipeline, a few times over.
const RESERVE_PIDS: u32 = 32;

/// Processes of a command beside the workload, which may be a shell script with some helpers.
const ASIDE_PIDS: u32 = 64;

/// Memory that the workload never gets, as a share of what is available at boot: for the agent,
/// for buffers that the kernel charges to nobody, and above its low watermark. In bytes.
const KERNEL_SHARE: u64 = 32;
const KERNEL_MIN_BYTES: u64 = 10 << 20;
const KERNEL_MAX_BYTES: u64 = 64 << 20;

/// Memory of the reserve, likewise.
const RESERVE_SHARE: u64 = 64;
const RESERVE_MIN_BYTES: u64 = 4 << 20;
const RESERVE_MAX_BYTES: u64 = 32 << 20;

/// The workload's limit of processes, unless the user has set it; then 0.
static OWN_LIMIT: AtomicU32 = AtomicU32::new(0);

/// The workload's limit of memory, in bytes, unless the user has set a lower one.
static MOST_MEMORY: AtomicU64 = AtomicU64::new(u64::MAX);

/// Whether execs may use the reserve: not with a limit of the user's, which counts them too.
pub(super) fn has_reserve() -> bool {
    OWN_LIMIT.load(Relaxed) > 0
}

/// Whether `count` processes leave an exec too few for a pipeline of its own.
pub(super) fn is_crowded(count: u32) -> bool {
    let limit = OWN_LIMIT.load(Relaxed);
    limit > 0 && count.saturating_add(RESERVE_PIDS) > limit
}

/// Sets what holds without any wish of the user. At boot: later it would cost each start. A
/// kernel of the user's that lacks a controller runs without its limits.
pub(super) fn set_defaults() {
    let mut settings = Vec::new();
    if let Some(threads) = max_threads() {
        let pids = default_pids(threads);
        OWN_LIMIT.store(pids, Relaxed);
        settings.push((WORKLOAD, "pids.max", pids.to_string()));
        settings.push((RESERVE, "pids.max", RESERVE_PIDS.to_string()));
    }
    if let Some(available) = available_bytes() {
        let (workload, reserve) = split_memory(available);
        MOST_MEMORY.store(workload, Relaxed);
        settings.push((WORKLOAD, "memory.max", workload.to_string()));
        settings.push((RESERVE, "memory.max", reserve.to_string()));
    }
    for (group, file, value) in settings {
        if let Err(error) = set(group, file, &value) {
            log::error(&format!("Could not set `{file}` to `{value}`: {error}"));
        }
    }
}

/// Gives a command beside the workload what memory is free now, less the kernel's share, and few
/// processes: the workload is frozen and gives nothing back.
pub(super) fn limit_aside(group: &str) {
    let mut settings = vec![("pids.max", ASIDE_PIDS.to_string())];
    if let Some(available) = available_bytes() {
        let (most, _) = split_memory(available);
        settings.push(("memory.max", most.to_string()));
    }
    for (file, value) in settings {
        if let Err(error) = set(group, file, &value) {
            log::error(&format!("Could not set `{file}` to `{value}`: {error}"));
        }
    }
}

/// Sets the limits that the user asks for.
pub(crate) fn limit(limits: &ResourceLimits) -> Result<()> {
    let most = match limits.pids {
        // Most starts: two walks through `/proc` less.
        None => u32::MAX,
        Some(_) => most_pids(max_threads().unwrap_or(u32::MAX)),
    };
    match limits.pids {
        None => {}
        Some(0) => OWN_LIMIT.store(most, Relaxed),
        Some(_) => OWN_LIMIT.store(0, Relaxed),
    }
    for (file, value) in settings(limits, most) {
        set(WORKLOAD, file, &value).or_fail(FailureKind::Limits, || {
            format!("Could not set the limit `{file}` to `{value}`")
        })?;
    }
    Ok(())
}

/// Sets limits anew while the workload is frozen. One below what the workload uses is refused: to
/// set it would end processes.
pub(crate) fn limit_again(limits: &ResourceLimits) -> Result<()> {
    let failed = || "Could not read the workload's memory";
    let kind = FailureKind::Limits;
    if let Some(memory) = limits.memory {
        let text =
            fs::read_to_string(format!("{WORKLOAD}/memory.current")).or_fail(kind, failed)?;
        let used: u64 = text.trim().parse().or_fail(kind, failed)?;
        if used > memory.bytes() {
            let used = ByteSize::from_bytes(used);
            let message =
                format!("The workload uses {used} of memory, which is more than {memory}");
            return Err(failure(kind, message));
        }
    }
    limit(limits)
}

fn settings(limits: &ResourceLimits, most_pids: u32) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(pids) = limits.pids {
        let pids = if pids == 0 {
            most_pids
        } else {
            pids.min(most_pids)
        };
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
    if let Some(memory) = limits.memory {
        // Never above what the guest's kernel can spare.
        let bytes = memory.bytes().min(MOST_MEMORY.load(Relaxed));
        settings.push(("memory.max", bytes.to_string()));
    }
    settings
}

/// Docker's cpu-shares (2 to 262144, default 1024) as a cgroup v2 weight (1 to 10000, default
/// 100): the linear map of Kubernetes KEP-2254, which runc and crun share.
fn weight_of_shares(shares: u32) -> u32 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Processes and threads that the kernel allows in all; proc_sys_kernel(5).
fn max_threads() -> Option<u32> {
    let read = |name: &str| -> Option<u32> {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some(read("threads-max")?.min(read("pid_max")?))
}

/// The most that a workload may have in a kernel that allows `threads` in all.
fn most_pids(threads: u32) -> u32 {
    threads.saturating_sub(AGENT_PIDS + RESERVE_PIDS).max(1)
}

/// Half of them: stacks and page tables of more would not fit the guest's memory anyway.
fn default_pids(threads: u32) -> u32 {
    (threads / 2).min(most_pids(threads)).max(1)
}

/// Memory that the kernel could give out now; proc_meminfo(5).
fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Shares of the workload and of the reserve in `available` bytes.
fn split_memory(available: u64) -> (u64, u64) {
    let kernel = (available / KERNEL_SHARE).clamp(KERNEL_MIN_BYTES, KERNEL_MAX_BYTES);
    let reserve = (available / RESERVE_SHARE).clamp(RESERVE_MIN_BYTES, RESERVE_MAX_BYTES);
    // A guest that is too small for any of this still gets most of it.
    let workload = available
        .saturating_sub(kernel + reserve)
        .max(available / 4 * 3);
    (workload, reserve)
}

#[cfg(test)]
mod tests {
    use cofferdam_types::ByteSize;

    use super::*;

    const MOST: u32 = 4000;

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
        assert_eq!(settings(&limits, MOST), expected);
        assert!(settings(&ResourceLimits::default(), MOST).is_empty());
    }

    #[test]
    fn no_limit_and_a_huge_one_leave_the_agent_room() {
        for pids in [0, MOST + 1, u32::MAX] {
            let limits = ResourceLimits {
                pids: Some(pids),
                ..ResourceLimits::default()
            };
            assert_eq!(settings(&limits, MOST), [("pids.max", MOST.to_string())]);
        }
        for threads in [0, 100, 500, 3900, 32_768] {
            let (default, most) = (default_pids(threads), most_pids(threads));
            assert!(1 <= default && default <= most, "{threads}");
            assert!(most == 1 || most + AGENT_PIDS + RESERVE_PIDS <= threads);
        }
    }

    #[test]
    fn the_workload_gets_most_of_the_memory_and_never_all() {
        for mib in [32, 64, 128, 256, 512, 4096, 65_536] {
            let available = mib << 20;
            let (workload, reserve) = split_memory(available);
            assert!(workload >= available / 4 * 3, "{mib}");
            assert!(workload + reserve < available, "{mib}");
        }
    }
}
