//! Ending a sandbox: first by its stop signal, then by SIGKILL, then without its guest.

use std::time::Duration;

use cofferdam_proto::{HostMessage, SESSION_STREAM};
use cofferdam_types::{ExitStatus, SandboxStatus, Signal};

use super::{End, Switchboard, sources::later};
use crate::{
    base::{
        error::{Error, ErrorKind},
        task::log_line,
    },
    host::silence,
    store::{EndedBy, event::EventKind},
    supervisor::event::Event,
};

/// How long the guest may take to end the workload after SIGKILL before the machine goes.
const FORCED_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for a machine whose process is stopped: it can end nothing before somebody lets it go
/// on.
const STOPPED_TIMEOUT: Duration = Duration::from_millis(500);

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopStage {
    /// Nobody asked.
    NotAsked,
    /// The stop signal was sent.
    Asked,
    /// SIGKILL was sent.
    Forced,
}

impl Switchboard {
    pub(super) fn stop(&mut self, timeout: Option<Duration>) {
        let record = &self.entry.record;
        let own = Duration::from_secs(u64::from(record.spec.stop_timeout_s));
        let timeout = timeout.unwrap_or(own);
        if self.stop_stage == StopStage::NotAsked {
            self.stop_stage = StopStage::Asked;
            self.ended_by = Some(EndedBy::Stop);
            let signal = record.stop_signal.number();
            let _ = self.send(SESSION_STREAM, &HostMessage::Signal { signal });
            self.set_stopping();
        }
        later(timeout, &self.events, Event::StopTimeout);
    }

    /// Ends the workload now.
    pub(super) fn force(&mut self, by: EndedBy) {
        if self.stop_stage < StopStage::Forced {
            self.stop_stage = StopStage::Forced;
            self.ended_by.get_or_insert(by);
            let signal = Signal::KILL.number();
            let _ = self.send(SESSION_STREAM, &HostMessage::Signal { signal });
            self.set_stopping();
            let timeout = match silence::is_stopped(self.machine.pid()) {
                true => STOPPED_TIMEOUT,
                false => FORCED_TIMEOUT,
            };
            later(timeout, &self.events, Event::StopTimeout);
        }
    }

    pub(super) fn stop_timeout(&mut self) -> Option<End> {
        match self.stop_stage {
            StopStage::Forced => Some(End::Exited(ExitStatus::Signal(Signal::KILL.number()))),
            _ => {
                self.force(EndedBy::Stop);
                None
            }
        }
    }

    pub(super) fn stop_asked(&self) -> bool {
        self.stop_stage != StopStage::NotAsked
    }

    pub(super) fn set_stopping(&mut self) {
        self.resume_after_all();
        self.set_status(SandboxStatus::Stopping);
    }

    /// Writes a new status down. One that cannot follow the present one is a fault of this program:
    /// it is logged as such and changes nothing.
    pub(super) fn set_status(&mut self, status: SandboxStatus) {
        let now = self.entry.state.status;
        if now == status {
            return;
        }
        if !now.can_become(status) {
            let what = format!("A sandbox that is {now} cannot become {status}");
            return log_line(&Error::new(ErrorKind::Bug, what).chain());
        }
        self.entry.state.status = status;
        let event = match (now, status) {
            (_, SandboxStatus::Paused) => Some(EventKind::Paused {
                by: self.lease_over(),
            }),
            (SandboxStatus::Paused, SandboxStatus::Running) => Some(EventKind::Unpaused),
            _ => None,
        };
        if let Some(event) = event {
            self.store.note(&self.entry.record, event);
        }
        // Readers see the old one a moment longer if this fails.
        let _ = self
            .store
            .set_state(self.entry.record.id, &self.entry.state);
    }

    /// Writes down whether the guest stands still. A sandbox that is to end stays `stopping`.
    pub(super) fn set_standing(&mut self, status: SandboxStatus) {
        if !self.stop_asked() {
            self.set_status(status);
        }
    }

    /// Lets the guest put its file systems in order and end the machine.
    pub(in crate::supervisor) fn shut_down(&mut self) {
        let trim = self.last_trim();
        let shutdown = HostMessage::Shutdown { trim };
        let _ = self.send(cofferdam_proto::CONTROL_STREAM, &shutdown);
    }
}
