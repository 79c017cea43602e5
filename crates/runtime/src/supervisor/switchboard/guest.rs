//! What comes from the guest and what goes to it.

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Channel, FrameError, FrameKind, HostMessage, SESSION_STREAM,
    SupervisorMessage, decode_control, encode_control,
};
use cofferdam_types::ExitStatus;

use super::{End, Switchboard, wire::does_not_read};
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    link::{OwnedFrame, SendError, refused},
    store::event::EventKind,
    supervisor::{event::ClientId, workload::OUTPUTS},
};

impl Switchboard {
    pub(super) fn on_agent(&mut self, frame: &OwnedFrame) -> Option<End> {
        let result = match frame.kind {
            FrameKind::Control => return self.agent_message(frame),
            FrameKind::Data => self.guest_output(frame),
            FrameKind::Credit => self.guest_credit(frame),
        };
        result.err().map(broken)
    }

    pub(super) fn guest_output(
        &mut self,
        frame: &OwnedFrame,
    ) -> std::result::Result<(), FrameError> {
        if frame.stream == SESSION_STREAM {
            let output = (frame.channel, frame.payload.as_slice(), frame.eof);
            self.workload.received(output, &mut self.clients)?;
            self.give_workload_credit();
            return Ok(());
        }
        // A session that is unknown here ended, or lost its client and was told to be quiet.
        let Some(session) = self.sessions.get_mut(&frame.stream) else {
            return self.on_stream(frame);
        };
        session.received(frame.channel, frame.payload.len(), frame.eof)?;
        for id in session.clients() {
            if let Some((client, _)) = self.clients.get_mut(&id) {
                // The guest's window is no larger than the client's, so it fits.
                client.output(frame.channel, &frame.payload, frame.eof);
            }
        }
        self.give_session_credit(frame.stream);
        Ok(())
    }

    pub(super) fn guest_credit(
        &mut self,
        frame: &OwnedFrame,
    ) -> std::result::Result<(), FrameError> {
        let bytes = frame.credit()?;
        if frame.stream == SESSION_STREAM {
            self.workload.input.credit(bytes)?;
            self.pump_workload_input();
        } else if let Some(session) = self.sessions.get_mut(&frame.stream) {
            session.input.credit(bytes)?;
            self.pump_session_input(frame.stream);
        } else {
            return self.on_stream(frame);
        }
        Ok(())
    }

    pub(super) fn agent_message(&mut self, frame: &OwnedFrame) -> Option<End> {
        let message = match decode_control::<AgentMessage>(&frame.payload) {
            Ok(message) => message,
            Err(error) => return Some(broken(error)),
        };
        if frame.stream == SESSION_STREAM {
            return match message {
                AgentMessage::Exited { status } => Some(End::Exited(status)),
                AgentMessage::Failed(failure) => Some(End::Failed(refused(&failure))),
                // The start was over before this supervisor had the link.
                AgentMessage::Started { .. } => Some(broken(FrameError::OutOfOrder)),
                _ => None,
            };
        }
        if frame.stream == CONTROL_STREAM {
            match message {
                AgentMessage::OutOfMemory { killed } => self.out_of_memory(killed),
                message => self.moment_answer(message),
            }
            return None;
        }
        let Some(session) = self.sessions.get_mut(&frame.stream) else {
            return self.on_stream(frame).err().map(broken);
        };
        if matches!(message, AgentMessage::Started { .. })
            && let Err(error) = session.started()
        {
            return Some(broken(error));
        }
        let detach = session.options.detach;
        match message {
            AgentMessage::Started { pid } => {
                let event = EventKind::exec_started(frame.stream, session.command.clone());
                self.store.note(&self.entry.record, event);
                let started = SupervisorMessage::Started {
                    pid,
                    session: frame.stream,
                    timeline: Vec::new(),
                };
                self.answer_session(frame.stream, &started);
            }
            AgentMessage::Exited { status } => self.session_exited(frame.stream, status),
            AgentMessage::Failed(failure) => {
                let failed = SupervisorMessage::Failed(to_remote(&refused(&failure)));
                self.answer_session(frame.stream, &failed);
                self.sessions.remove(&frame.stream);
            }
            _ => {}
        }
        if detach {
            self.leave_detached(frame.stream);
        }
        None
    }

    /// The process of a session has ended.
    fn session_exited(&mut self, stream: u32, status: ExitStatus) {
        let event = EventKind::ExecEnded {
            session: stream,
            exit_code: status.code(),
        };
        self.store.note(&self.entry.record, event);
        let before = self.sessions.get(&stream);
        let before = before.map_or(u64::MAX, |session| session.oom_kills_before);
        for warning in self.warnings(before, status) {
            self.answer_session(stream, &warning);
        }
        self.answer_session(stream, &SupervisorMessage::Exited { status });
        if let Some(session) = self.sessions.remove(&stream) {
            self.keep_ended(stream, &session, status);
        }
    }

    pub(super) fn send(&mut self, stream: u32, message: &HostMessage) -> Result<()> {
        let mut bytes = Vec::new();
        encode_control(stream, message, &mut bytes).map_err(|error| {
            Error::new(
                ErrorKind::InvalidSpec,
                "The request is too large for the guest",
            )
            .because(error)
        })?;
        match self.agent.send(bytes) {
            // A queue without a writer means that the machine is gone; its event is under way.
            Ok(()) | Err(SendError::Gone) => Ok(()),
            Err(SendError::Full) => Err(does_not_read()),
        }
    }

    pub(super) fn give_credit(&mut self, stream: u32, channel: Channel, bytes: u32) {
        self.agent.give(stream, channel, bytes);
    }

    pub(super) fn give_workload_credit(&mut self) {
        for (channel, bytes) in OUTPUTS.into_iter().zip(self.workload.take_credit()) {
            if bytes > 0 {
                self.give_credit(SESSION_STREAM, channel, bytes);
            }
        }
    }

    pub(super) fn pump_workload_input(&mut self) {
        let mut out = Vec::new();
        let taken = self.workload.input.drain(SESSION_STREAM, &mut out);
        self.pumped(out, &taken);
    }

    pub(super) fn pump_session_input(&mut self, stream: u32) {
        let Some(session) = self.sessions.get_mut(&stream) else {
            return;
        };
        let mut out = Vec::new();
        let taken = session.input.drain(stream, &mut out);
        self.pumped(out, &taken);
    }

    fn pumped(&mut self, out: Vec<u8>, taken: &[(ClientId, u32)]) {
        if !out.is_empty() {
            // As above.
            let _ = self.agent.send_data(out);
        }
        for (id, bytes) in taken {
            if let Some((client, _)) = self.clients.get(id) {
                client.give_input_credit(*bytes);
            }
        }
    }
}

/// The end of a sandbox whose guest breaks the rules: nothing that it says can be believed.
fn broken(error: FrameError) -> End {
    let what = "The guest broke the agent protocol";
    End::Failed(Error::new(ErrorKind::GuestFailed, what).because(error))
}
