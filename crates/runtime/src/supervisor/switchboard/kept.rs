//! Sessions that outlive their client: a list of them, further readers, and exit statuses that are
//! kept.

use std::collections::VecDeque;

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{SessionStatus, SupervisorMessage};
use cofferdam_types::ExitStatus;

use super::{Role, Switchboard};
use crate::{
    base::error::{Error, ErrorKind, Result},
    supervisor::{event::ClientId, input::MAX_WRITERS, session::Session},
};

/// How many ended sessions are kept; the oldest goes first.
const MAX_ENDED: usize = 64;

/// Kept sessions that have ended, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ended(VecDeque<SessionStatus>);

impl Ended {
    fn push(&mut self, status: SessionStatus) {
        if self.0.len() >= MAX_ENDED {
            self.0.pop_front();
        }
        self.0.push_back(status);
    }
}

impl Switchboard {
    pub(super) fn too_many_writers(&self) -> Error {
        let name = &self.entry.record.name;
        let what = format!(
            "Sandbox `{name}` has {MAX_WRITERS} clients that write to it, or input that its \
             program does not read"
        );
        Error::new(ErrorKind::WrongState, what).hint("Attach without input: `--no-stdin`")
    }

    /// Keeps the exit status of a session that has ended, if it was to be kept.
    pub(super) fn keep_ended(&mut self, number: u32, session: &Session, status: ExitStatus) {
        if session.options.keep {
            self.ended_sessions.push(SessionStatus {
                ended_ns: Some(unix_time_ns()),
                exit: Some(status),
                clients: 0,
                ..session.status(number)
            });
        }
    }

    /// The sessions that run, and the kept ones that have ended, by number.
    pub(super) fn list_sessions(&self) -> Vec<SessionStatus> {
        let running = self.sessions.iter();
        let running = running.map(|(number, session)| session.status(*number));
        let mut all: Vec<_> = running
            .chain(self.ended_sessions.0.iter().cloned())
            .collect();
        all.sort_by_key(|status| status.session);
        all
    }

    /// Has a client follow a kept session.
    pub(super) fn attach_session(&mut self, id: ClientId, number: u32, stdin: bool) -> Result<()> {
        let started = SupervisorMessage::Started {
            pid: 0,
            session: number,
            timeline: Vec::new(),
        };
        let mut ended = self.ended_sessions.0.iter();
        if let Some(status) = ended.find(|status| status.session == number) {
            let (timed_out, exit) = (status.timed_out, status.exit);
            self.answer(id, &started);
            if timed_out {
                self.answer(id, &SupervisorMessage::TimedOut);
            }
            if let Some(status) = exit {
                self.answer(id, &SupervisorMessage::Exited { status });
            }
            return Ok(());
        }
        let session = self.sessions.get_mut(&number);
        let Some(session) = session.filter(|session| session.options.keep) else {
            let name = &self.entry.record.name;
            let what = format!("Sandbox `{name}` has no session {number} to attach to");
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        if !session.attach(id, stdin) {
            return Err(self.too_many_writers());
        }
        self.set_role(id, Role::Session(number));
        self.answer(id, &started);
        Ok(())
    }

    /// Answers all clients of a session.
    pub(super) fn answer_session(&self, stream: u32, message: &SupervisorMessage) {
        for id in self
            .sessions
            .get(&stream)
            .iter()
            .flat_map(|session| session.clients())
        {
            self.answer(id, message);
        }
    }

    /// Gives the guest the credit that is due for a session.
    pub(super) fn give_session_credit(&mut self, stream: u32) {
        let Some(session) = self.sessions.get_mut(&stream) else {
            return;
        };
        let credit = session.take_credit();
        for (channel, bytes) in crate::supervisor::workload::OUTPUTS.into_iter().zip(credit) {
            if bytes > 0 {
                self.give_credit(stream, channel, bytes);
            }
        }
    }
}
