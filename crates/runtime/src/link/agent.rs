//! The host's end of the agent channel: the handshake of a start, then frames both ways.
//!
//! During the start one task speaks and listens in turn ([`AgentLink`]). Afterwards the link is
//! split into a reader task, which decodes frames, and a writer task, which drains a queue.

use std::time::Duration;

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Channel, Decoder, Failure, FailureKind, Frame, FrameError,
    FrameKind, GENERATION, HostMessage, Inbound, SESSION_STREAM, decode_control, encode_control,
    encode_credit,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};

use super::outgoing::{Outgoing, outgoing, write_all};
use crate::base::{
    error::{Error, ErrorKind, Result},
    task::log_line,
};

/// How much is read from the channel at once: several frames of the largest data size.
const READ_BYTES: usize = 256 << 10;

/// The longest message of an agent, in bytes: the end of what a hook printed, and some words.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Most notes of one guest.
const MAX_NOTES: usize = 16;

/// A frame that owns its payload, on its way between tasks.
#[derive(Debug)]
pub(crate) struct OwnedFrame {
    pub(crate) kind: FrameKind,
    pub(crate) stream: u32,
    pub(crate) channel: Channel,
    pub(crate) eof: bool,
    pub(crate) payload: Vec<u8>,
}

/// What comes from a guest after its link was split.
#[derive(Debug)]
pub(crate) enum FromAgent {
    /// A frame.
    Frame(OwnedFrame),
    /// The channel is of no further use, for this reason. It is the last.
    Lost(Error),
}

impl OwnedFrame {
    fn of(frame: &Frame<'_>) -> Self {
        Self {
            kind: frame.kind,
            stream: frame.stream,
            channel: frame.channel,
            eof: frame.eof,
            payload: frame.payload.to_vec(),
        }
    }

    /// The credit that a credit frame gives, in bytes.
    ///
    /// # Errors
    /// [`FrameError::BadCredit`].
    pub(crate) fn credit(&self) -> std::result::Result<u32, FrameError> {
        Frame {
            kind: self.kind,
            stream: self.stream,
            channel: self.channel,
            eof: self.eof,
            payload: &self.payload,
        }
        .credit()
    }
}

/// The agent channel while a machine is brought up.
#[derive(Debug)]
pub(crate) struct AgentLink {
    stream: UnixStream,
    decoder: Decoder,
    /// Output of the workload that arrived before the link was split.
    early: Vec<OwnedFrame>,
    /// What the workload may still send of it, for standard output and error.
    windows: [Inbound; 2],
    /// What of the guest is not as fast as it could be, one sentence each.
    notes: Vec<String>,
}

impl AgentLink {
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> Result<Self> {
        stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map(|stream| Self {
                stream,
                decoder: Decoder::new().with_control_limit(MAX_MESSAGE_BYTES),
                early: Vec::new(),
                windows: [Inbound::new(); 2],
                notes: Vec::new(),
            })
            .map_err(|error| crate::base::error::io("Could not use the agent channel", error))
    }

    /// Sends messages in order.
    pub(crate) async fn send(&mut self, messages: &[(u32, HostMessage)]) -> Result<()> {
        let mut bytes = Vec::new();
        for (stream, message) in messages {
            encode_control(*stream, message, &mut bytes).map_err(|error| {
                Error::new(
                    ErrorKind::InvalidSpec,
                    "The request is too large for the guest",
                )
                .because(error)
            })?;
        }
        self.stream.write_all(&bytes).await.map_err(lost)
    }

    /// Notes that something of the guest is not as fast as it could be.
    pub(crate) fn note(&mut self, sentence: String) {
        log_line(&sentence);
        // The guest decides how many there are.
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&sentence) {
            self.notes.push(sentence);
        }
    }

    /// What was noted since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The next frame, whatever it is.
    pub(crate) async fn next_frame(&mut self) -> Result<OwnedFrame> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(broken)? {
                return Ok(OwnedFrame::of(&frame));
            }
            match self.stream.read(&mut buffer).await.map_err(lost)? {
                0 => return Err(hung_up()),
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// Lets the guest send more. The frame that ends a channel has no bytes to give back.
    pub(crate) async fn give_credit(
        &mut self,
        stream: u32,
        channel: Channel,
        bytes: u32,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        encode_credit(stream, channel, bytes, &mut out);
        self.stream.write_all(&out).await.map_err(lost)
    }

    /// The next control message, with its stream. Data that comes first is kept.
    pub(crate) async fn receive(&mut self) -> Result<(u32, AgentMessage)> {
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(broken)? {
                if frame.kind == FrameKind::Control {
                    let stream = frame.stream;
                    match decode_control(frame.payload).map_err(broken)? {
                        AgentMessage::NotPrepared(failure) => {
                            let why = refused(&failure).chain();
                            self.note(format!("The guest could not prepare for a start: {why}"));
                        }
                        message => return Ok((stream, message)),
                    }
                    continue;
                }
                let frame = OwnedFrame::of(&frame);
                self.keep_early(frame)?;
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).await.map_err(lost)? {
                0 => return Err(hung_up()),
                length => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// Keeps output of the workload, which is bounded by its windows. Sessions of a copied guest
    /// have nobody here who reads them, and credit is for input that nobody has sent yet.
    fn keep_early(&mut self, frame: OwnedFrame) -> Result<()> {
        if frame.kind != FrameKind::Data || frame.stream != SESSION_STREAM {
            return Ok(());
        }
        let window = match frame.channel {
            Channel::Stdin => return Err(broken(FrameError::UnknownChannel(Channel::Stdin as u8))),
            Channel::Stdout => &mut self.windows[0],
            Channel::Stderr => &mut self.windows[1],
        };
        window
            .receive(frame.payload.len(), frame.eof)
            .map_err(broken)?;
        self.early.push(frame);
        Ok(())
    }

    /// Waits for the agent to be ready: the answer to `Hello`, or its push after a boot.
    pub(crate) async fn ready(&mut self, limit: Duration) -> Result<()> {
        let wait = async {
            self.send(&[(
                CONTROL_STREAM,
                HostMessage::Hello {
                    generation: GENERATION,
                },
            )])
            .await?;
            loop {
                match self.receive().await?.1 {
                    AgentMessage::Ready { generation, .. } if generation == GENERATION => {
                        return Ok(());
                    }
                    AgentMessage::Ready { generation, .. } => {
                        return Err(Error::new(
                            ErrorKind::GuestFailed,
                            format!("The agent speaks generation {generation}, not {GENERATION}"),
                        ));
                    }
                    AgentMessage::Failed(failure) => return Err(refused(&failure)),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::GuestFailed,
                format!("The guest was not ready after {} s", limit.as_secs()),
            ))
        })
    }

    /// Waits for the answer on `stream` that `wanted` accepts.
    pub(crate) async fn expect<T>(
        &mut self,
        stream: u32,
        wanted: impl Fn(&AgentMessage) -> Option<T>,
    ) -> Result<T> {
        loop {
            let (on, message) = self.receive().await?;
            if let AgentMessage::Failed(failure) = &message
                && (on == stream || on == CONTROL_STREAM)
            {
                return Err(refused(failure));
            }
            if on == stream
                && let Some(value) = wanted(&message)
            {
                return Ok(value);
            }
        }
    }

    /// Splits the link into tasks: frames come as events, bytes to write go into the queue.
    pub(crate) fn split<E: From<FromAgent> + Send + 'static>(
        self,
        events: mpsc::Sender<E>,
    ) -> (Outgoing, Vec<OwnedFrame>) {
        let (reader, writer) = self.stream.into_split();
        let (queue, waiting) = outgoing();
        tokio::spawn(write_all(writer, waiting));
        let decoder = self.decoder;
        tokio::spawn(async move {
            let reason = read_frames(reader, decoder, &events).await;
            // The receiver is gone only when the supervisor ends.
            let _ = events.send(FromAgent::Lost(reason).into()).await;
        });
        (queue, self.early)
    }
}

async fn read_frames<E: From<FromAgent>>(
    mut reader: tokio::net::unix::OwnedReadHalf,
    mut decoder: Decoder,
    events: &mpsc::Sender<E>,
) -> Error {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => OwnedFrame::of(&frame),
                Ok(None) => break,
                Err(error) => return broken(error),
            };
            if events.send(FromAgent::Frame(frame).into()).await.is_err() {
                return hung_up();
            }
        }
        match reader.read(&mut buffer).await {
            Ok(0) => return hung_up(),
            Ok(length) => decoder.push(&buffer[..length]),
            Err(error) => return lost(error),
        }
    }
}

/// The failure that an agent's refusal is.
pub(crate) fn refused(failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::ProgramNotFound => ErrorKind::ProgramNotFound,
        FailureKind::ProgramNotExecutable => ErrorKind::ProgramNotExecutable,
        FailureKind::UnknownUser
        | FailureKind::BadWorkdir
        | FailureKind::Limits
        | FailureKind::Mount => ErrorKind::ProcessSetup,
        // The guest answers and is well: there is nothing to find out about the machine.
        FailureKind::OutOfOrder => ErrorKind::WrongState,
        FailureKind::ConnectionRefused => ErrorKind::ConnectionRefused,
        FailureKind::ConnectionReset => ErrorKind::ConnectionReset,
        _ => ErrorKind::GuestFailed,
    };
    // The guest chose these bytes: no control characters of its may reach a terminal.
    let message: String = failure
        .message
        .chars()
        .filter(|c| !c.is_control())
        .take(1024)
        .collect();
    Error::new(kind, message)
}

fn lost(error: std::io::Error) -> Error {
    Error::new(ErrorKind::GuestFailed, "The agent channel broke").because(error)
}

fn broken(error: FrameError) -> Error {
    Error::new(ErrorKind::GuestFailed, "The guest broke the agent protocol").because(error)
}

fn hung_up() -> Error {
    Error::new(ErrorKind::GuestFailed, "The machine ended without notice")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_out_of_order_says_nothing_against_the_guest() {
        let kind_of = |kind| {
            let message = "The workload has ended".to_owned();
            refused(&Failure { kind, message }).kind()
        };
        assert_eq!(kind_of(FailureKind::OutOfOrder), ErrorKind::WrongState);
        assert_eq!(kind_of(FailureKind::Internal), ErrorKind::GuestFailed);
    }

    #[test]
    fn what_a_guest_could_not_prepare_is_noted_once_and_answers_nothing() {
        let said = crate::base::task::block_on(async {
            let (ours, guest) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut link = AgentLink::new(ours).unwrap();
            let mut bytes = Vec::new();
            let not_prepared = AgentMessage::NotPrepared(Failure {
                kind: FailureKind::Internal,
                message: "No\u{1b} pipes".to_owned(),
            });
            for message in [&not_prepared, &not_prepared, &AgentMessage::Quiesced] {
                encode_control(CONTROL_STREAM, message, &mut bytes).unwrap();
            }
            std::io::Write::write_all(&mut (&guest), &bytes).unwrap();
            let first = link.receive().await.unwrap();
            (first, link.take_notes())
        });
        let (first, notes) = said.unwrap();
        assert_eq!(first, (CONTROL_STREAM, AgentMessage::Quiesced));
        assert_eq!(notes, ["The guest could not prepare for a start: No pipes"]);
    }
}
