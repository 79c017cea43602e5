//! A client's end of a supervisor's socket.
//!
//! [`Connection`] is one operation. For a session it is split into an [`Outgoing`] half, which
//! sends input within its window, and an incoming one, which yields [`Incoming`] items and gives
//! credit as the caller takes them: a caller that stops reading stops the process, not the
//! supervisor.

mod dir_watch;
mod events;
mod launch;
mod logs;
mod request;

use std::{path::Path, sync::Arc};

use cofferdam_proto::{
    CLIENT_GENERATION, CONTROL_STREAM, Channel, ClientMessage, ClientRequest, Decoder, FrameKind,
    MAX_DATA_BYTES, Request, SESSION_STREAM, SupervisorMessage, Window, decode_control,
    encode_control, encode_credit, encode_data,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
};

pub use self::events::EventFollower;
pub use self::logs::{LogFollower, LogOptions, console_lines};
pub(crate) use self::{
    launch::{launch, spawn_with_socket, start},
    request::{end, request, unless_stopped, wait, what_became},
};
use crate::base::error::{Error, ErrorKind, Result, from_remote, io};

/// What a supervisor sent.
#[derive(Debug)]
pub enum Incoming {
    /// Output of the session.
    Output {
        /// Standard output or error.
        channel: Channel,
        /// The bytes; empty at the end of the channel.
        bytes: Vec<u8>,
        /// Whether this is the end of the channel.
        eof: bool,
    },
    /// An answer.
    Message(SupervisorMessage),
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Connection {
    incoming: Receiver,
    outgoing: Outgoing,
}

/// The reading half.
#[derive(Debug)]
pub struct Receiver {
    stream: OwnedReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// Output that was taken and not yet credited, by channel.
    owed: [u32; 2],
    /// Whether the caller says what it has read; else it is what it has taken.
    holds_credit: bool,
    /// Whether credit was encoded that may not be sent yet.
    is_paying: bool,
    writer: Arc<Mutex<Writer>>,
    input_credit: watch::Sender<u64>,
    input_total: u64,
}

/// The writing half.
#[derive(Debug, Clone)]
pub struct Outgoing {
    writer: Arc<Mutex<Writer>>,
    /// All input credit that ever came, in bytes.
    credit: watch::Receiver<u64>,
    sent: u64,
}

/// What both halves write to. A write that is given up half-way stays here, and the next one
/// begins with its rest, so that frames stay whole.
#[derive(Debug)]
struct Writer {
    stream: OwnedWriteHalf,
    unsent: Vec<u8>,
}

impl Writer {
    /// Writes what is not yet sent.
    ///
    /// # Cancel safety
    /// What was not written is still there.
    async fn flush(&mut self) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            let count = self.stream.write(&self.unsent).await?;
            self.unsent.drain(..count);
        }
        Ok(())
    }
}

impl Connection {
    /// Connects to a running sandbox's supervisor.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] when nobody listens.
    pub async fn open(socket: &Path, request: Request) -> Result<Self> {
        let stream = crate::base::socket::connect(socket)
            .await
            .map_err(|error| {
                Error::new(
                    ErrorKind::SupervisorLost,
                    "The sandbox's supervisor does not answer",
                )
                .because(error)
            })?;
        Self::over(stream, request).await
    }

    pub(crate) async fn over(stream: UnixStream, request: Request) -> Result<Self> {
        let request = ClientRequest {
            generation: CLIENT_GENERATION,
            request,
        };
        Self::asking(stream, &request).await
    }

    pub(crate) async fn asking(stream: UnixStream, request: &ClientRequest) -> Result<Self> {
        let (reader, writer) = stream.into_split();
        let writer = Arc::new(Mutex::new(Writer {
            stream: writer,
            unsent: Vec::new(),
        }));
        let (input_credit, credit) = watch::channel(0);
        let connection = Self {
            incoming: Receiver {
                stream: reader,
                decoder: Decoder::new(),
                buffer: vec![0; 128 << 10],
                owed: [0; 2],
                holds_credit: false,
                is_paying: false,
                writer: Arc::clone(&writer),
                input_credit,
                input_total: 0,
            },
            outgoing: Outgoing {
                writer,
                credit,
                sent: 0,
            },
        };
        let mut bytes = Vec::new();
        encode_control(CONTROL_STREAM, request, &mut bytes).map_err(|error| {
            Error::new(ErrorKind::InvalidSpec, "The request is too large").because(error)
        })?;
        connection.outgoing.write(&bytes).await?;
        Ok(connection)
    }

    /// The next thing that the supervisor sent.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] at the end of the connection.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Incoming> {
        self.incoming.next().await
    }

    /// The next answer; output that comes before it is a fault of the supervisor.
    ///
    /// # Errors
    /// What the supervisor failed with, or [`ErrorKind::SupervisorLost`].
    pub async fn answer(&mut self) -> Result<SupervisorMessage> {
        match self.incoming.next().await? {
            Incoming::Message(SupervisorMessage::Failed(failure)) => Err(from_remote(&failure)),
            Incoming::Message(message) => Ok(message),
            Incoming::Output { .. } => Err(Error::new(
                ErrorKind::Bug,
                "The supervisor sent output out of turn",
            )),
        }
    }

    /// The two halves.
    #[must_use]
    pub fn split(self) -> (Receiver, Outgoing) {
        (self.incoming, self.outgoing)
    }
}

impl Receiver {
    /// The next thing that the supervisor sent. Taking it gives credit for what was taken before.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] at the end of the connection.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Incoming> {
        loop {
            if let Some(item) = self.decode()? {
                return Ok(item);
            }
            self.pay().await;
            let length = self.stream.read(&mut self.buffer).await.map_err(lost)?;
            if length == 0 {
                return Err(Error::new(
                    ErrorKind::SupervisorLost,
                    "The sandbox's supervisor hung up",
                )
                .hint("See `coffer inspect` and the sandbox's supervisor.log"));
            }
            self.decoder.push(&self.buffer[..length]);
        }
    }

    /// From now on only [`Self::has_read`] gives credit. At most one window of each channel comes
    /// without it.
    pub fn hold_credit(&mut self) {
        self.holds_credit = true;
    }

    /// Gives credit for so many bytes of standard output and standard error.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn has_read(&mut self, bytes: [u32; 2]) {
        for (owed, bytes) in self.owed.iter_mut().zip(bytes) {
            *owed = owed.saturating_add(bytes);
        }
        self.pay().await;
    }

    fn decode(&mut self) -> Result<Option<Incoming>> {
        while let Some(frame) = self.decoder.next_frame().map_err(broken)? {
            match (frame.kind, frame.stream) {
                (FrameKind::Control, _) => {
                    let message = decode_control(frame.payload).map_err(broken)?;
                    return Ok(Some(Incoming::Message(message)));
                }
                (FrameKind::Data, SESSION_STREAM) => {
                    let index = usize::from(frame.channel == Channel::Stderr);
                    let length = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                    if !self.holds_credit {
                        self.owed[index] = self.owed[index].saturating_add(length);
                    }
                    return Ok(Some(Incoming::Output {
                        channel: frame.channel,
                        bytes: frame.payload.to_vec(),
                        eof: frame.eof,
                    }));
                }
                (FrameKind::Credit, SESSION_STREAM) => {
                    self.input_total += u64::from(frame.credit().map_err(broken)?);
                    // Nobody may be writing; then nobody waits for credit.
                    let _ = self.input_credit.send(self.input_total);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Gives credit for what the caller took. Runs when the decoder is empty, so once for all that
    /// one read brought.
    async fn pay(&mut self) {
        if self.owed == [0; 2] && !self.is_paying {
            return;
        }
        let mut writer = self.writer.lock().await;
        // From here to the flush nothing waits, so all of it is paid or none.
        for (owed, channel) in self.owed.iter_mut().zip([Channel::Stdout, Channel::Stderr]) {
            if *owed > 0 {
                encode_credit(SESSION_STREAM, channel, *owed, &mut writer.unsent);
                *owed = 0;
            }
        }
        self.is_paying = true;
        // A supervisor that has ended may still have output in the socket for us.
        let _ = writer.flush().await;
        self.is_paying = false;
    }
}

impl Outgoing {
    /// Sends input, waiting for room as needed.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] when the connection ended.
    ///
    /// # Cancel safety
    /// When the future is dropped, a start of the bytes of unknown length was sent.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.room().await?;
            let (chunk, tail) = rest.split_at(rest.len().min(room).min(MAX_DATA_BYTES));
            let mut writer = self.writer.lock().await;
            // From here to the flush nothing waits: what is sent is counted.
            encode_data(
                SESSION_STREAM,
                Channel::Stdin,
                chunk,
                false,
                &mut writer.unsent,
            );
            self.sent += chunk.len() as u64;
            writer.flush().await.map_err(lost)?;
            drop(writer);
            rest = tail;
        }
        Ok(())
    }

    /// Ends the input.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] when the connection ended.
    pub async fn end_input(&mut self) -> Result<()> {
        let mut out = Vec::new();
        encode_data(SESSION_STREAM, Channel::Stdin, &[], true, &mut out);
        self.write(&out).await
    }

    /// Sends a signal or a new terminal size.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] when the connection ended.
    pub async fn message(&self, message: ClientMessage) -> Result<()> {
        let mut out = Vec::new();
        encode_control(SESSION_STREAM, &message, &mut out).map_err(broken)?;
        self.write(&out).await
    }

    async fn room(&mut self) -> Result<usize> {
        let window = Window::new().left() as u64;
        loop {
            let room = (*self.credit.borrow_and_update() + window).saturating_sub(self.sent);
            if room > 0 {
                return Ok(usize::try_from(room).unwrap_or(usize::MAX));
            }
            self.credit.changed().await.map_err(|error| {
                Error::new(ErrorKind::SupervisorLost, "The session has ended").because(error)
            })?;
        }
    }

    async fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut writer = self.writer.lock().await;
        writer.unsent.extend_from_slice(bytes);
        writer.flush().await.map_err(lost)
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::SupervisorLost,
        "The sandbox's supervisor hung up",
    )
    .because(error)
}

fn broken(error: cofferdam_proto::FrameError) -> Error {
    Error::new(ErrorKind::Bug, "The supervisor broke its protocol").because(error)
}

/// Wraps a standard stream.
pub(crate) fn from_std(stream: std::os::unix::net::UnixStream) -> Result<UnixStream> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|error| io("Could not use a socket", error))
}

#[cfg(test)]
mod tests;
