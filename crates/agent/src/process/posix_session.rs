//! All processes of a POSIX session: a process that the agent starts leads one, and its children
//! are in it unless they make one of their own.
//!
//! Numbers are those of the agent's PID namespace, in which every process of the guest has one.
//!
//! Source: setsid(2), `proc_pid_stat(5)`, and fs/proc of the kernel for `fdinfo` of a pidfd.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use crate::log;

/// How often the processes are looked for: one that was being made while the others were killed
/// is found by the next look.
const MAX_LOOKS: usize = 8;

/// The number of a process that has not been waited for yet.
pub(crate) fn number(pidfd: &OwnedFd) -> Option<Pid> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok().and_then(Pid::from_raw)
}

/// Sends a signal to every process of the session that `leader` made. After SIGKILL none is left
/// but those that are being made faster than killed, or are stuck in the kernel.
pub(crate) fn signal_session(leader: Pid, signal: u8) {
    let Some(signal) = Signal::from_named_raw(i32::from(signal)) else {
        log::error(&format!("Signal {signal} has no name and was not sent"));
        return;
    };
    for _ in 0..MAX_LOOKS {
        let members = members(leader);
        for pid in &members {
            match kill_process(*pid, signal) {
                // It ended by itself meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => log::error(&format!("Could not send a signal: {error}")),
            }
        }
        if members.is_empty() || signal != Signal::KILL {
            return;
        }
    }
}

/// The live processes of a session.
fn members(leader: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            is_member(&stat, leader).then(|| Pid::from_raw(pid))?
        })
        .collect()
}

/// Whether a line of `/proc/PID/stat` is of a live process of the session.
fn is_member(stat: &str, leader: Pid) -> bool {
    // The name may hold blanks and parentheses; the fields after it do not.
    let Some((_, fields)) = stat.rsplit_once(") ") else {
        return false;
    };
    let mut fields = fields.split(' ');
    let state = fields.next().unwrap_or_default();
    // State, parent, process group, session: fields 3 to 6.
    let session = fields.nth(2).and_then(|field| field.parse().ok());
    !matches!(state, "Z" | "X") && session == Some(leader.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_by_their_session_and_are_alive() {
        let leader = Pid::from_raw(41).unwrap();
        assert!(is_member("42 (a) b) S 7 40 41 0 -1 4194560", leader));
        assert!(!is_member("42 (sh) S 41 41 40 0 -1 4194560", leader));
        assert!(!is_member("42 (sh) Z 7 40 41 0 -1 4194560", leader));
        assert!(!is_member("", leader));
    }
}
