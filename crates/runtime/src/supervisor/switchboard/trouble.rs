//! What goes wrong around a sandbox while it runs: its memory is full, or the host's disk is.
//!
//! The state keeps it, and a client gets it as a warning if it may have ended the client's session.

use cofferdam_backend::DiskFailure;
use cofferdam_proto::{RemoteFailure, SupervisorMessage};
use cofferdam_types::ExitStatus;

use super::Switchboard;
use crate::{
    base::error::{Error, ErrorKind, memory_error, to_remote},
    host::room,
    store::{Failure, event::EventKind},
};

impl Switchboard {
    /// The guest's kernel has killed so many processes more.
    pub(super) fn out_of_memory(&mut self, killed: u64) {
        let state = &mut self.entry.state;
        let before = state.oom_kills;
        state.oom_kills = before.saturating_add(killed);
        // A guest could send these without end; its state is written for each doubling only.
        if before.checked_ilog2() != state.oom_kills.checked_ilog2() {
            let kills = self.entry.state.oom_kills;
            self.save_state();
            self.store
                .note(&self.entry.record, EventKind::Oom { kills });
        }
    }

    /// The host could not read or write the sandbox's disk.
    pub(super) fn disk_failed(&mut self, failure: &DiskFailure) {
        let error = disk_error(failure, &room::free_text(self.store.layout().home()));
        crate::base::task::log_line(&error.chain());
        self.entry.state.disk_failure = Some(to_remote(&error).into());
        self.save_state();
    }

    /// What may have ended a session with `status`, before which `oom_kills_before` processes had
    /// been killed.
    pub(super) fn warnings(
        &self,
        oom_kills_before: u64,
        status: ExitStatus,
    ) -> Vec<SupervisorMessage> {
        if status == ExitStatus::Code(0) {
            return Vec::new();
        }
        let state = &self.entry.state;
        let memory = (state.oom_kills > oom_kills_before)
            .then(|| to_remote(&memory_error(&self.entry.record.spec)));
        let disk = state.disk_failure.clone().map(remote);
        let warnings = [memory, disk, self.lease_warning()].into_iter().flatten();
        warnings.map(SupervisorMessage::Warning).collect()
    }

    pub(super) fn save_state(&self) {
        let saved = self
            .store
            .set_state(self.entry.record.id, &self.entry.state);
        if let Err(error) = saved {
            // It is written again at the sandbox's end.
            crate::base::task::log_line(&error.chain());
        }
    }
}

fn remote(failure: Failure) -> RemoteFailure {
    RemoteFailure {
        kind: failure.kind,
        message: failure.message,
        hint: failure.hint,
    }
}

/// `free` says how much room the store's file system has.
fn disk_error(failure: &DiskFailure, free: &str) -> Error {
    if failure.no_space {
        let what = format!("The host's disk is full: the sandbox's disk could not grow, {free}");
        return Error::new(ErrorKind::NoSpace, what).hint(
            "Free some space, or move the store with `COFFER_HOME`; then restart the sandbox",
        );
    }
    // QEMU's words, but for people.
    let reason: String = failure.reason.chars().filter(|c| !c.is_control()).collect();
    let what = format!("The host could not read or write the sandbox's disk: {reason}");
    Error::new(ErrorKind::Io, what).hint("Look at the host's kernel log, then restart the sandbox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let failure = |no_space, reason: &str| DiskFailure {
            no_space,
            reason: reason.to_owned(),
        };
        let full = disk_error(
            &failure(true, "No space left on device"),
            "`/s` has 0 MiB free",
        );
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert!(
            full.to_string().starts_with("The host's disk is full"),
            "{full}"
        );
        assert!(full.to_string().ends_with("`/s` has 0 MiB free"), "{full}");
        let broken = disk_error(&failure(false, "Input/output\nerror"), "");
        assert_eq!(broken.kind(), ErrorKind::Io);
        assert!(
            broken.to_string().ends_with("Input/outputerror"),
            "{broken}"
        );
    }
}
