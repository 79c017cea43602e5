//! How much a guest can have changed in a while, by the time that its processors ran.
//!
//! QEMU knows which pages have changed only at the end of a pass over all of them, and may end the
//! migration there. To compare pages misses what is written with what was there already. A processor
//! that did not run has written nothing.
//! Source: proc(5), `/proc/PID/task/TID/schedstat`; QEMU `qapi/machine.json`, `query-cpus-fast`.

use std::{fs, io, time::Duration};

/// What a guest's processors have used, counted from some time on.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    pid: u32,
    threads: Vec<u32>,
    before: Duration,
}

impl Busy {
    /// Counts from now on. `threads` are those of the guest's processors in the process `pid`.
    pub(super) fn begin(pid: u32, threads: Vec<u32>) -> io::Result<Self> {
        let before = Duration::ZERO;
        let mut busy = Self {
            pid,
            threads,
            before,
        };
        busy.before = busy.used()?;
        Ok(busy)
    }

    /// What they have used since.
    pub(super) fn since(&self) -> io::Result<Duration> {
        Ok(self.used()?.saturating_sub(self.before))
    }

    fn used(&self) -> io::Result<Duration> {
        let threads = self.threads.iter().map(|thread| {
            let path = format!("/proc/{}/task/{thread}/schedstat", self.pid);
            parse(&fs::read_to_string(path)?).ok_or_else(|| io::Error::other("not a schedstat"))
        });
        threads.sum()
    }
}

/// The first number is the time on a processor in nanoseconds.
fn parse(schedstat: &str) -> Option<Duration> {
    let nanos = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_is_the_first_number() {
        assert_eq!(parse("1500 7 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("much 7 3"), None);
    }

    #[test]
    fn a_thread_that_works_is_busy() {
        let pid = std::process::id();
        let busy = Busy::begin(pid, vec![pid]).unwrap();
        // The main thread of a test waits for the others.
        assert!(busy.since().unwrap() < Duration::from_secs(1));
        assert!(Busy::begin(pid, vec![u32::MAX]).is_err());
    }
}
