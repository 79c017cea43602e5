//! The time limit of a command: SIGTERM, then SIGKILL, to it and its children; then its client
//! gets an answer without the guest.

use std::time::Duration;

use cofferdam_proto::{HostMessage, SupervisorMessage};
use cofferdam_types::{ExitStatus, Signal};

use super::{Switchboard, sources::later};
use crate::supervisor::{event::Event, session::Limit};

/// SIGTERM; signal(7).
const TERM: u8 = 15;

/// How long a command may take to end after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the guest may take to report the end of a command that was killed. It waits for what
/// holds the command's streams, which has left its session, for 2 s.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Switchboard {
    /// A command has come to the end of the time that it had.
    pub(super) fn time_limit(&mut self, stream: u32) {
        let Some(session) = self.sessions.get_mut(&stream) else {
            return;
        };
        let (next, signal, timeout) = match session.limit {
            Limit::Within => (Limit::Asked, TERM, TERM_TIMEOUT),
            Limit::Asked => (Limit::Killed, Signal::KILL.number(), KILL_TIMEOUT),
            Limit::Killed => {
                let status = ExitStatus::Signal(Signal::KILL.number());
                self.answer_session(stream, &SupervisorMessage::Exited { status });
                if let Some(session) = self.sessions.remove(&stream) {
                    self.keep_ended(stream, &session, status);
                }
                let _ = self.send(stream, &HostMessage::Detach);
                return;
            }
        };
        session.limit = next;
        // The message is small and always encodes.
        let _ = self.send(stream, &HostMessage::SignalSession { signal });
        if next == Limit::Asked {
            self.answer_session(stream, &SupervisorMessage::TimedOut);
        }
        later(timeout, &self.events, Event::ExecTimeLimit(stream));
    }
}
