//! Why a machine does not answer, and the command that helps.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// The error of a machine whose process is stopped, such as by SIGSTOP; none if it is not, or if
/// nothing is known of it.
pub(crate) fn stopped(pid: u32) -> Option<Error> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    is_stopped(&stat).then(|| {
        let what = format!("The machine's process `{pid}` is stopped, so the guest cannot answer");
        Error::new(ErrorKind::GuestFailed, what).hint(format!(
            "Let it go on with `kill -CONT {pid}`, or end the sandbox with `coffer rm -f`"
        ))
    })
}

/// The error of a guest that has not answered within `limit`.
pub(crate) fn unanswered(pid: u32, limit: Duration) -> Error {
    stopped(pid).unwrap_or_else(|| {
        let what = format!("The guest did not answer in {} s", limit.as_secs());
        Error::new(ErrorKind::GuestFailed, what)
            .hint("The host may be too busy: try again. `coffer kill` ends a guest that hangs")
    })
}

/// Field 3 of proc_pid_stat(5). The second field is the program's name in parentheses and may
/// hold anything, so the last parenthesis counts.
fn is_stopped(stat: &str) -> bool {
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stopped_process_is_reported_as_stopped() {
        assert!(is_stopped("12 (a) T) T 1 12"));
        assert!(!is_stopped("12 (T) S 1 12"));
        assert!(!is_stopped(""));
        assert!(stopped(std::process::id()).is_none());
        assert!(stopped(u32::MAX).is_none());
    }

    #[test]
    fn silence_of_a_running_process_names_the_time() {
        let error = unanswered(std::process::id(), Duration::from_secs(30));
        assert!(error.to_string().contains("30 s"), "{error:?}");
        assert!(error.hint_text().is_some());
    }
}
