//! Byte streams between clients and servers in the guest.
//!
//! All that is sent to the guest for a stream goes into the queue's bulk part, in its order. So a
//! transfer delays no command, and the end of a stream comes behind its bytes.

use std::time::Duration;

use cofferdam_proto::{
    AgentMessage, Channel, FrameError, FrameKind, HostMessage, StreamTarget, SupervisorMessage,
    decode_control, encode_control,
};
use tokio::time::Instant;

use super::{Role, Switchboard, sources::later, wire::does_not_read};
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    host::silence,
    link::{OwnedFrame, SendError, refused},
    supervisor::{
        event::{ClientId, Event},
        stream::GuestStream,
    },
};

/// Most byte streams at once; the agent has the same bound.
const MAX_STREAMS: usize = 256;

/// How long the guest may take to connect. A server of the loopback accepts at once, unless too
/// many connections wait for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the guest may take for bytes that a client has left behind.
const LINGER: Duration = Duration::from_secs(5);

impl Switchboard {
    pub(super) fn connect(&mut self, id: ClientId, target: StreamTarget) -> Result<()> {
        self.check_runs()?;
        if self.streams.len() >= MAX_STREAMS {
            let what = format!("A sandbox has at most {MAX_STREAMS} byte streams at once");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .hint("Close some of its connections and connect again"));
        }
        let stream = self.next_session;
        self.send_to_stream(stream, &HostMessage::Connect(target))?;
        self.next_session += 1;
        later(CONNECT_TIMEOUT, &self.events, Event::StreamTime(stream));
        self.streams.insert(stream, GuestStream::new(id));
        self.set_role(id, Role::Stream(stream));
        Ok(())
    }

    fn send_to_stream(&self, stream: u32, message: &HostMessage) -> Result<()> {
        let mut bytes = Vec::new();
        encode_control(stream, message, &mut bytes).map_err(|error| {
            Error::new(ErrorKind::InvalidSpec, "The target is too long").because(error)
        })?;
        match self.agent.send_bulk(bytes, true) {
            // A queue without a writer means that the machine is gone; its event is under way.
            Ok(()) | Err(SendError::Gone) => Ok(()),
            Err(SendError::Full) => Err(does_not_read()),
        }
    }

    /// A frame of the guest whose number is that of no session.
    pub(super) fn on_stream(&mut self, frame: &OwnedFrame) -> std::result::Result<(), FrameError> {
        let number = frame.stream;
        // One that is unknown here is over, or lost its client.
        let Some(stream) = self.streams.get_mut(&number) else {
            return Ok(());
        };
        match frame.kind {
            FrameKind::Control => return self.stream_message(frame),
            FrameKind::Credit => stream.input.credit(frame.credit()?)?,
            FrameKind::Data => {
                if frame.channel != Channel::Stdout {
                    return Err(FrameError::UnknownChannel(frame.channel as u8));
                }
                stream.received(frame.payload.len(), frame.eof)?;
                let client = stream.client.and_then(|id| self.clients.get_mut(&id));
                if let Some((client, _)) = client {
                    // The guest's window is no larger than the client's, so it fits.
                    client.output(Channel::Stdout, &frame.payload, frame.eof);
                } else {
                    // Nobody reads it, and the server is not to wait for that.
                    stream.has_read(u32::try_from(frame.payload.len()).unwrap_or(u32::MAX));
                }
                self.give_stream_credit(number);
                return Ok(());
            }
        }
        self.pump_stream(number);
        Ok(())
    }

    fn stream_message(&mut self, frame: &OwnedFrame) -> std::result::Result<(), FrameError> {
        let number = frame.stream;
        let answer = match decode_control::<AgentMessage>(&frame.payload)? {
            AgentMessage::Connected => {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.opened()?;
                }
                self.answer_stream(number, &SupervisorMessage::Connected);
                self.pump_stream(number);
                return Ok(());
            }
            AgentMessage::Disconnected => SupervisorMessage::Done,
            AgentMessage::Failed(failure) => {
                let mut error = refused(&failure);
                if error.kind() == ErrorKind::ConnectionRefused {
                    error =
                        error.hint("Check that a server in the sandbox listens there and accepts");
                }
                SupervisorMessage::Failed(to_remote(&error))
            }
            _ => return Err(FrameError::OutOfOrder),
        };
        self.answer_stream(number, &answer);
        self.forget_stream(number);
        Ok(())
    }

    fn answer_stream(&self, number: u32, message: &SupervisorMessage) {
        if let Some(id) = self.streams.get(&number).and_then(|stream| stream.client) {
            self.answer(id, message);
        }
    }

    fn forget_stream(&mut self, number: u32) {
        if let Some(id) = self
            .streams
            .remove(&number)
            .and_then(|stream| stream.client)
        {
            self.set_role(id, Role::None);
        }
    }

    /// Has the guest close a stream; with a reset, unless all input and its end were delivered.
    fn close_stream(&mut self, number: u32) {
        let mut bytes = Vec::new();
        // A message this small always encodes. It is never refused: a stream that is forgotten here
        // and not there would be one less for ever. There is one for each request that was let in.
        let _ = encode_control(number, &HostMessage::Detach, &mut bytes);
        let _ = self.agent.send_bulk(bytes, false);
        self.forget_stream(number);
    }

    /// Input of a stream's client.
    pub(super) fn stream_input(
        &mut self,
        id: ClientId,
        number: u32,
        bytes: &[u8],
        eof: bool,
    ) -> std::result::Result<(), FrameError> {
        let Some(stream) = self.streams.get_mut(&number) else {
            return Ok(());
        };
        stream.input.push(id, bytes)?;
        if eof {
            stream.input.end();
        }
        self.pump_stream(number);
        Ok(())
    }

    /// The client of a stream has read bytes.
    pub(super) fn stream_read(&mut self, number: u32, bytes: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.has_read(bytes);
        }
        self.give_stream_credit(number);
    }

    fn give_stream_credit(&mut self, number: u32) {
        let credit = self.streams.get_mut(&number).map(GuestStream::take_credit);
        if let Some(credit) = credit.filter(|credit| *credit > 0) {
            self.give_credit(number, Channel::Stdout, credit);
        }
    }

    fn pump_stream(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        if !stream.is_open() {
            return;
        }
        let mut out = Vec::new();
        let taken = stream.input.drain(number, &mut out);
        let is_done = stream.client.is_none() && stream.input.is_delivered();
        if !out.is_empty() {
            // A machine that is gone needs none.
            let _ = self.agent.send_bulk(out, false);
        }
        for (id, bytes) in taken {
            if let Some((client, _)) = self.clients.get(&id) {
                client.give_input_credit(bytes);
            }
        }
        if is_done {
            self.close_stream(number);
        }
    }

    /// The client of a stream is gone.
    pub(super) fn leave_stream(&mut self, id: ClientId, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        stream.client = None;
        stream.input.end();
        stream.input.close(id);
        if !stream.is_open() {
            self.close_stream(number);
            return;
        }
        stream.lingers_until = Some(Instant::now() + LINGER);
        later(LINGER, &self.events, Event::StreamTime(number));
        self.pump_stream(number);
    }

    /// The client of a stream resets it.
    pub(super) fn reset_stream(&mut self, role: Role) {
        if let Role::Stream(number) = role
            && self.streams.contains_key(&number)
        {
            self.close_stream(number);
        }
    }

    /// A stream may have taken too long to connect, or to take what its client has left behind.
    pub(super) fn stream_time(&mut self, number: u32) {
        let Some(stream) = self.streams.get(&number) else {
            return;
        };
        let is_late = match stream.lingers_until {
            Some(until) => Instant::now() >= until,
            None => !stream.is_open(),
        };
        if !is_late {
            return;
        }
        if self.run_state.is_moving() || self.run_state.is_paused() {
            later(CONNECT_TIMEOUT, &self.events, Event::StreamTime(number));
            return;
        }
        let name = &self.entry.record.name;
        let error = silence::unanswered(name, self.machine.pid(), CONNECT_TIMEOUT);
        self.answer_stream(number, &SupervisorMessage::Failed(to_remote(&error)));
        self.close_stream(number);
    }
}
