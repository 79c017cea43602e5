//! Slowing the user's processes down for a while.
//!
//! Invariant: what is frozen is at its usual pace, so that a process inside the kernel comes to its
//! border at once, and a copy of the machine has nothing to set right.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst, `cpu.max`.

use std::fs;

use super::{GROUPS, set};
use crate::log;

const FILE: &str = "cpu.max";

/// The kernel's own period. A shorter one gains nothing, as time is counted by ticks of 4 ms.
const PERIOD_US: u32 = 100_000;

/// Whether processes are slowed down, and the limits that they have otherwise.
#[derive(Debug, Default)]
pub(crate) struct CpuThrottle {
    saved: Vec<(&'static str, String)>,
}

impl CpuThrottle {
    /// Leaves all processes so much of one processor. A kernel that cannot do it leaves them as
    /// they are.
    pub(crate) fn hold_back(&mut self, percent: u32) {
        if self.saved.is_empty() {
            let limits = GROUPS.into_iter().filter_map(|group| {
                let limit = fs::read_to_string(format!("{group}/{FILE}")).ok()?;
                Some((group, limit.trim_end().to_owned()))
            });
            self.saved = limits.collect();
        }
        let limit = limit(percent);
        for (group, _) in &self.saved {
            if let Err(error) = set(group, FILE, &limit) {
                log::error(&format!("Could not slow `{group}` down: {error}"));
            }
        }
    }

    /// Gives them back what they had. Ending what was not begun changes nothing.
    pub(crate) fn end(&mut self) {
        for (group, limit) in self.saved.drain(..) {
            if let Err(error) = set(group, FILE, &limit) {
                log::error(&format!("Could not end slowing `{group}` down: {error}"));
            }
        }
    }
}

fn limit(percent: u32) -> String {
    let quota_us = percent.clamp(1, 100) * (PERIOD_US / 100);
    format!("{quota_us} {PERIOD_US}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_of_one_processor_and_never_none() {
        assert_eq!(limit(3), "3000 100000");
        assert_eq!(limit(0), "1000 100000");
        assert_eq!(limit(u32::MAX), "100000 100000");
    }
}
