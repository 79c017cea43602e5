//! How many processes the kernel has killed because memory ran out.
//!
//! The kernel counts a process before it kills it (mm/oom_kill.c, `__oom_kill_process`), so
//! when the end of a process is seen, the count has it already.

use std::{fs::File, os::fd::AsFd};

use cofferdam_proto::FailureKind;
use rustix::{event::epoll::EventFlags, io::pread};

use super::GROUPS;
use crate::{
    failure::{OrFail, Result},
    log,
    poll::{Poll, Token},
};

/// Longest `memory.events`; it has seven short lines.
const EVENTS_BYTES: usize = 512;

/// The counters of both cgroups, which include those below them.
#[derive(Debug)]
pub(crate) struct OomWatch {
    files: Vec<File>,
    seen: u64,
}

impl OomWatch {
    /// Has `poll` report changes. A kernel without the memory controller reports none.
    pub(crate) fn new(poll: &Poll) -> Result<Self> {
        let mut files = Vec::new();
        for group in GROUPS {
            match File::open(format!("{group}/memory.events")) {
                Ok(file) => {
                    // A file that was never read counts as changed (fs/kernfs/file.c,
                    // `kernfs_generic_poll`): without this each template would begin with a watch
                    // of its memory.
                    count(&file);
                    poll.add(file.as_fd(), Token::OutOfMemory, EventFlags::PRI)?;
                    files.push(file);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .or_fail(FailureKind::Internal, || "Could not watch the memory");
                }
            }
        }
        Ok(Self { files, seen: 0 })
    }

    /// How many processes were killed since the last call.
    pub(crate) fn killed(&mut self) -> u64 {
        let total = self.files.iter().map(count).sum::<u64>();
        let killed = total.saturating_sub(self.seen);
        self.seen = self.seen.max(total);
        killed
    }
}

/// Reading also takes the change off the poll.
fn count(file: &File) -> u64 {
    let mut text = [0; EVENTS_BYTES];
    match pread(file, &mut text, 0) {
        Ok(length) => text
            .get(..length)
            .map_or(0, |text| oom_kills(&String::from_utf8_lossy(text))),
        Err(error) => {
            log::error(&format!("Could not read `memory.events`: {error}"));
            0
        }
    }
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_told_from_the_other_counters() {
        let events = "low 0\nhigh 0\nmax 1234\noom 5\noom_kill 3\noom_group_kill 7\n";
        assert_eq!(oom_kills(events), 3);
        assert_eq!(oom_kills(""), 0);
    }
}
