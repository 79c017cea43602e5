//! What comes from the guest and what goes to it.

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Channel, FrameError, FrameKind, HostMessage, SESSION_STREAM,
    SupervisorMessage, decode_control, encode_control, encode_credit,
};

use super::{End, Switchboard};
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    link::{OwnedFrame, refused},
    supervisor::{event::ClientId, workload::OUTPUTS},
};

impl Switchboard {
    pub(super) fn on_agent(&mut self, frame: &OwnedFrame) -> Option<End> {
        let result = match frame.kind {
            FrameKind::Control => return self.agent_message(frame),
            FrameKind::Data => self.guest_output(frame),
            FrameKind::Credit => self.guest_credit(frame),
        };
        result.err().map(|error| {
            End::Failed(
                Error::new(ErrorKind::GuestFailed, "The guest broke the agent protocol")
                    .because(error),
            )
        })
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
            return Ok(());
        };
        session.received(frame.channel, frame.payload.len())?;
        if let Some((client, _)) = session.client.and_then(|id| self.clients.get_mut(&id)) {
            // The guest's window is no larger than the client's, so it fits.
            client.output(frame.channel, &frame.payload, frame.eof);
        }
        Ok(())
    }

    pub(super) fn guest_credit(
        &mut self,
        frame: &OwnedFrame,
    ) -> std::result::Result<(), FrameError> {
        let payload = frame.payload.as_slice();
        let bytes = payload
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| FrameError::BadCredit)?;
        if frame.stream == SESSION_STREAM {
            self.workload.input.credit(bytes)?;
            self.pump_workload_input();
        } else if let Some(session) = self.sessions.get_mut(&frame.stream) {
            session.input.credit(bytes)?;
            self.pump_session_input(frame.stream);
        }
        Ok(())
    }

    pub(super) fn agent_message(&mut self, frame: &OwnedFrame) -> Option<End> {
        let message = match decode_control::<AgentMessage>(&frame.payload) {
            Ok(message) => message,
            Err(error) => {
                let broken = Error::new(ErrorKind::GuestFailed, "The guest broke the protocol");
                return Some(End::Failed(broken.because(error)));
            }
        };
        if frame.stream == SESSION_STREAM {
            return match message {
                AgentMessage::Exited { status } => Some(End::Exited(status)),
                AgentMessage::Failed(failure) => Some(End::Failed(refused(&failure))),
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
        self.starting.remove(&frame.stream);
        let session = self.sessions.get(&frame.stream)?;
        let (client, detach) = (session.client, session.options.detach);
        let answer = match message {
            AgentMessage::Started { pid } => Some(SupervisorMessage::Started {
                pid,
                timeline: Vec::new(),
            }),
            AgentMessage::Exited { status } => {
                if let (Some(id), Some(session)) = (client, self.sessions.remove(&frame.stream)) {
                    for warning in self.warnings(session.oom_kills_before, status) {
                        self.answer(id, &warning);
                    }
                }
                Some(SupervisorMessage::Exited { status })
            }
            AgentMessage::Failed(failure) => {
                self.sessions.remove(&frame.stream);
                Some(SupervisorMessage::Failed(to_remote(&refused(&failure))))
            }
            _ => None,
        };
        if let (Some(answer), Some(id)) = (answer, client) {
            self.answer(id, &answer);
        }
        if detach {
            self.leave_session(frame.stream);
        }
        None
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
        self.agent.send(bytes);
        Ok(())
    }

    pub(super) fn give_credit(&mut self, stream: u32, channel: Channel, bytes: u32) {
        let mut out = Vec::new();
        encode_credit(stream, channel, bytes, &mut out);
        self.agent.send(out);
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
            self.agent.send(out);
        }
        for (id, bytes) in taken {
            if let Some((client, _)) = self.clients.get(id) {
                client.give_input_credit(*bytes);
            }
        }
    }
}
