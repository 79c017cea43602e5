//! A workload that turns in circles at its limit of memory.
//!
//! When almost all of it is taken by what cannot be given back (a full tmpfs), the kernel takes
//! the pages of the programs that run and reads them again at once. It counts that as progress
//! and kills nothing, for minutes. So the agent watches, from the moment that the limit is hit,
//! whether the little cache that is left is read again and again, and ends the process that the
//! kernel would end.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst §Memory; mm/vmscan.c, mm/workingset.c.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    time::Duration,
};

use cofferdam_proto::FailureKind;
use rustix::{
    event::epoll::EventFlags,
    io::{pread, read},
    process::{Pid, Signal, kill_process},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use super::WORKLOAD;
use crate::{
    failure::{OrFail, Result},
    log,
    poll::{Poll, Token},
};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Looks in a row after which a process is ended.
const LOOKS: u32 = 5;
/// A workload with more cache than this share of its limit is not short of memory.
const CACHE_SHARE: u64 = 16;
/// How often all of the cache is read again between two looks, at least. Behind a full tmpfs it is
/// some hundred times, also under emulation.
const ROUNDS: u64 = 16;
/// Pages that are read again between two looks, at least: 1 MiB.
const REFAULTS: u64 = 256;
/// A page, in bytes; x86-64 and arm64 guests have no other.
const PAGE_BYTES: u64 = 4096;
/// Longest `memory.stat` and the like.
const FILE_BYTES: usize = 8 << 10;

/// What the kernel counts, at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    /// How often the limit was hit.
    hits: u64,
    /// Pages of files that were read again soon after they had been taken.
    refaults: u64,
    /// Bytes of files that could be taken.
    cache_bytes: u64,
    /// The limit, in bytes.
    limit_bytes: u64,
}

impl Look {
    /// Whether the limit was hit since `before`.
    const fn is_at_limit(&self, before: &Self) -> bool {
        self.hits > before.hits
    }

    /// Whether the workload did little but read its own programs since `before`.
    const fn is_starved(&self, before: &Self) -> bool {
        let refaults = self.refaults.saturating_sub(before.refaults);
        self.is_at_limit(before)
            && self.cache_bytes < self.limit_bytes / CACHE_SHARE
            && refaults >= REFAULTS
            && refaults.saturating_mul(PAGE_BYTES) / ROUNDS >= self.cache_bytes
    }
}

/// Looks at the workload while it is at its limit.
#[derive(Debug)]
pub(crate) struct ThrashWatch {
    timer: OwnedFd,
    /// `None`: the workload is not at its limit, and the timer rests.
    last: Option<Look>,
    starved: u32,
}

impl ThrashWatch {
    /// Has `poll` report when to look.
    pub(crate) fn new(poll: &Poll) -> Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .or_fail(FailureKind::Internal, || "Could not make a timer")?;
        poll.add(&timer, Token::Thrash, EventFlags::IN)?;
        Ok(Self {
            timer,
            last: None,
            starved: 0,
        })
    }

    /// The kernel has counted something about the workload's memory.
    pub(crate) fn wake(&mut self) {
        if self.last.is_none() {
            self.last = look();
            self.starved = 0;
            self.set(self.last.is_some());
        }
    }

    /// Looks. Whether a process was ended.
    pub(crate) fn tick(&mut self) -> bool {
        // Takes the event away; nothing to read is as good.
        let _ = read(&self.timer, &mut [0; 8]);
        let (Some(before), now) = (self.last, look()) else {
            return false;
        };
        let now = now.filter(|now| now.is_at_limit(&before));
        self.starved = match now {
            Some(now) if now.is_starved(&before) => self.starved + 1,
            _ => 0,
        };
        self.last = now;
        if now.is_none() {
            self.set(false);
        }
        if self.starved < LOOKS {
            return false;
        }
        self.starved = 0;
        kill_one()
    }

    fn set(&self, on: bool) {
        let period = Timespec {
            tv_sec: if on {
                PERIOD.as_secs().cast_signed()
            } else {
                0
            },
            tv_nsec: 0,
        };
        let setting = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting) {
            log::error(&format!("Could not set a timer: {error}"));
        }
    }
}

/// `None` without the memory controller or a limit.
fn look() -> Option<Look> {
    let limit = text("memory.max")?;
    let stat = text("memory.stat")?;
    let events = text("memory.events")?;
    Some(Look {
        hits: value(&events, "max")?,
        refaults: value(&stat, "workingset_refault_file")?,
        cache_bytes: value(&stat, "inactive_file")? + value(&stat, "active_file")?,
        limit_bytes: limit.trim().parse().ok()?,
    })
}

fn text(name: &str) -> Option<String> {
    let file = File::open(format!("{WORKLOAD}/{name}")).ok()?;
    let mut bytes = vec![0; FILE_BYTES];
    let length = pread(&file, bytes.as_mut_slice(), 0).ok()?;
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(' ')?;
        rest.trim().parse().ok()
    })
}

/// Ends the process that the kernel would end: the one with the highest score, of several the
/// youngest.
fn kill_one() -> bool {
    let members = text("cgroup.procs").unwrap_or_default();
    let victim = members
        .lines()
        .filter_map(|line| line.parse::<i32>().ok())
        .filter_map(|pid| Some((score(pid)?, pid)))
        .max();
    let Some((_, pid)) = victim else { return false };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let ended = Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
    if ended {
        log::error(&format!(
            "The workload's memory is full and it only reads its programs again; killed process \
             {pid} ({})",
            name.trim_end()
        ));
    }
    ended
}

/// The kernel's score of a process, which is 0 for one that is never to be ended.
fn score(pid: i32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score")).ok()?;
    text.trim().parse().ok().filter(|&score| score > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two looks at a guest of 128 MiB, one second apart, at `ls` behind a full tmpfs.
    fn thrashing() -> (Look, Look) {
        let before = Look {
            hits: 1352,
            refaults: 34_165,
            cache_bytes: 86_016,
            limit_bytes: 83_435_520,
        };
        let now = Look {
            hits: 1735,
            refaults: 43_592,
            cache_bytes: 131_072,
            ..before
        };
        (before, now)
    }

    #[test]
    fn a_workload_that_reads_its_programs_again_and_again_is_starved() {
        let (before, now) = thrashing();
        assert!(now.is_starved(&before));
    }

    #[test]
    fn a_workload_that_gets_on_is_not_starved() {
        let (before, now) = thrashing();
        for healthy in [
            // Below its limit.
            Look {
                hits: before.hits,
                ..now
            },
            // A build or a database whose files do not fit: there is a cache.
            Look {
                cache_bytes: now.limit_bytes / 2,
                ..now
            },
            // Each page of a small cache was read again a few times.
            Look {
                cache_bytes: 4 << 20,
                ..now
            },
            // Little is read.
            Look {
                refaults: before.refaults + 100,
                ..now
            },
        ] {
            assert!(!healthy.is_starved(&before), "{healthy:?}");
        }
    }

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let stat = "file 7\ninactive_file_x 1\ninactive_file 42\n";
        assert_eq!(value(stat, "inactive_file"), Some(42));
        assert_eq!(value(stat, "active_file"), None);
    }
}
