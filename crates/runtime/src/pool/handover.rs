//! Which of two has a standby: the client that claims it in time, or nobody any more.
//!
//! A standby may be stopped, or its machine may be, and then a claim gets no answer. The client
//! waits a bounded time and goes on without it. Either side settles the question by one rename of
//! the standby's `standby.json`, which only one of them can do: the standby before it takes a
//! sandbox over, the client when its time is up. So no sandbox is started twice.

use std::{os::unix::ffi::OsStrExt, time::Duration};

use cofferdam_types::SandboxId;

use super::{Pool, READY, StandbyPaths};
use crate::store::{end_role, layout::Layout};

/// How long a claim may take until a standby has accepted it. A ready one takes some 3 ms; a fresh
/// start takes 100 ms and more, so on a busy host waiting longer gains nothing.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_millis(50);

/// Names that a standby's `standby.json` has once it is not ready any more.
const TAKEN: &str = "taken.json";
const GIVEN_UP: &str = "given-up.json";

/// A lost standby is replaced at most once in this time: its cause, such as a host without memory,
/// may end each replacement too. After that the next `run` makes one.
const REPLACEMENT_PAUSE: Duration = Duration::from_secs(60);

/// The number of a standby's process, in its directory.
const PID: &str = "pid";

impl StandbyPaths {
    /// Takes the standby for the client that claims it; false when that client has given it up.
    pub(super) fn take(&self) -> bool {
        std::fs::rename(self.dir.join(READY), self.dir.join(TAKEN)).is_ok() && !self.is_given_up()
    }

    /// Gives up a standby that does not answer; false when it has taken the sandbox over.
    pub(super) fn give_up(&self) -> bool {
        std::fs::rename(self.dir.join(READY), self.dir.join(GIVEN_UP)).is_ok()
    }

    /// Gives up a standby that is still being made; false when it has taken a sandbox over by now.
    pub(super) fn give_up_unready(&self) -> bool {
        // In this order, which is the other one in `take`: at least one of the two sees the other.
        std::fs::write(self.dir.join(GIVEN_UP), b"").is_ok() && !self.dir.join(TAKEN).exists()
    }

    /// Whether a client has given it up.
    pub(super) fn is_given_up(&self) -> bool {
        self.dir.join(GIVEN_UP).exists()
    }
}

/// Notes in the directory of a standby that this process is it.
///
/// # Errors
/// The file system's.
pub(super) fn note_process(dir: &std::path::Path) -> std::io::Result<()> {
    std::fs::write(dir.join(PID), std::process::id().to_string())
}

/// Whether a lost standby may be replaced at once; notes that it was.
pub(super) fn may_replace(pool: &Pool) -> bool {
    if !pool.dir.join("pool.json").exists() {
        return false;
    }
    let note = pool.dir.join("replaced");
    let last = std::fs::metadata(&note).and_then(|meta| meta.modified());
    // A clock that was set back is as good as a minute.
    let age = last.ok().and_then(|last| last.elapsed().ok());
    let may = age.is_none_or(|age| age > REPLACEMENT_PAUSE);
    may && std::fs::write(note, b"").is_ok()
}

impl Pool {
    /// Kills the standbys that clients have given up.
    pub(super) fn end_given_up(&self, layout: &Layout) {
        for id in self.ids() {
            if StandbyPaths::of(layout, self, id).is_given_up() {
                self.end(layout, id);
            }
        }
    }

    /// Kills a standby's process and its machine, and removes its files.
    ///
    /// # Blocking
    /// Until they have ended, for seconds at most.
    pub(super) fn end(&self, layout: &Layout, id: SandboxId) {
        let place = StandbyPaths::of(layout, self, id);
        let pid = std::fs::read_to_string(place.dir.join(PID)).ok();
        if let Some(pid) = pid.and_then(|pid| pid.parse().ok()) {
            let (home, id) = (layout.home().as_os_str().as_bytes(), id.to_string());
            let role = crate::store::program::STAND_BY.as_bytes();
            let expected = [role, home, self.manifest.name.as_bytes(), id.as_bytes()];
            end_role(pid, |words| words.starts_with(&expected));
        }
        // A machine ends with its supervisor; one that is stuck is tried once more.
        place.remove(layout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> (tempfile::TempDir, StandbyPaths) {
        let home = tempfile::tempdir().unwrap();
        let place = StandbyPaths {
            dir: home.path().to_owned(),
            run: home.path().to_owned(),
        };
        std::fs::write(place.dir.join(READY), b"{}").unwrap();
        (home, place)
    }

    #[test]
    fn a_standby_that_was_given_up_takes_no_sandbox() {
        let (_home, place) = ready();
        assert!(place.give_up());
        assert!(!place.take());
        assert!(place.is_given_up());
    }

    #[test]
    fn a_standby_that_was_given_up_while_it_was_made_takes_no_sandbox() {
        let (_home, place) = ready();
        assert!(place.give_up_unready());
        assert!(!place.take());
        let (_home, place) = ready();
        assert!(place.take());
        assert!(!place.give_up_unready());
    }

    #[test]
    fn a_standby_that_has_taken_a_sandbox_cannot_be_given_up() {
        let (_home, place) = ready();
        assert!(place.take());
        assert!(!place.give_up());
        assert!(!place.is_given_up());
    }
}
