//! Why a supervisor or a machine does not answer, and the command that helps.
//!
//! A client looks at a supervisor and at its machine, a supervisor looks at its machine. Both
//! report a stopped process with the same words.

use std::time::Duration;

use crate::base::error::{Error, ErrorKind};

/// A process of a live sandbox.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Supervisor,
    Machine,
}

/// The error of a process that is stopped, such as by SIGSTOP; none if it is not, or if nothing is
/// known of it.
pub(crate) fn stopped(part: Part, sandbox: &str, pid: u32) -> Option<Error> {
    is_stopped(pid).then(|| {
        let part = match part {
            Part::Supervisor => "supervisor",
            Part::Machine => "machine",
        };
        let what = format!("The {part} of sandbox `{sandbox}` is stopped (process {pid})");
        Error::new(ErrorKind::Timeout, what).hint(format!(
            "`kill -CONT {pid}` lets it go on; `coffer rm -f {sandbox}` removes the sandbox"
        ))
    })
}

/// The error of a guest that has not answered within `limit`.
pub(crate) fn unanswered(sandbox: &str, machine: u32, limit: Duration) -> Error {
    stopped(Part::Machine, sandbox, machine).unwrap_or_else(|| {
        let what = format!("The guest did not answer in {} s", limit.as_secs());
        Error::new(ErrorKind::GuestFailed, what)
            .hint("The host may be too busy: try again. `coffer kill` ends a guest that hangs")
    })
}

/// Whether a process is stopped by a signal or a debugger.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    says_stopped(&stat)
}

/// Field 3 of proc_pid_stat(5). The second field is the program's name in parentheses and may
/// hold anything, so the last parenthesis counts.
fn says_stopped(stat: &str) -> bool {
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stopped_process_is_reported_as_stopped() {
        assert!(says_stopped("12 (a) T) T 1 12"));
        assert!(says_stopped("12 (a) t 1 12"));
        assert!(!says_stopped("12 (T) S 1 12"));
        assert!(!says_stopped(""));
        assert!(stopped(Part::Machine, "web", std::process::id()).is_none());
        assert!(stopped(Part::Machine, "web", u32::MAX).is_none());
    }

    #[test]
    fn silence_of_a_running_process_names_the_time() {
        let error = unanswered("web", std::process::id(), Duration::from_secs(30));
        assert!(error.to_string().contains("30 s"), "{error:?}");
        assert!(error.hint_text().is_some());
    }
}
