//! One process in a sandbox and its streams.
//!
//! | dropped | what follows |
//! |---|---|
//! | [`Session`], or both of its halves | the process goes on; one with `kill_with_client` is killed. Nobody can attach again, unless it is kept |
//! | [`SessionReader`] alone | the process goes on, and stops when a window of output is under way |
//! | [`SessionWriter`], all clones | nothing: the input stays open until [`SessionWriter::close`] |
//! | a future of theirs | nothing is lost; of a write, the start may have been sent |
//!
//! The same holds when this process dies.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use cofferdam_runtime::{
    Channel, ClientMessage, Connection, Error, ErrorKind, Incoming, Outgoing, Receiver, Result,
    SupervisorMessage, TerminalSize,
};
use cofferdam_types::{ExitStatus, Signal};
use futures_core::Stream;

use crate::{Sandbox, SessionId, polled::Polled};

/// Most warnings that are kept.
const MAX_WARNINGS: usize = 8;

/// What a session yields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// Output; never empty.
    Output {
        /// Standard output or error; with a terminal, always standard output.
        channel: Channel,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The process ended. All its output came before.
    Exited(ExitStatus),
}

/// A process in a sandbox, with both directions of its streams. A `Stream` of its events.
///
/// A reader that stops reading stops the process when a quarter of a megabyte is under way;
/// nothing is buffered beyond that and nothing is lost.
#[derive(Debug)]
pub struct Session {
    reader: SessionReader,
    writer: SessionWriter,
}

/// The events of a session: a `Stream` that ends behind [`SessionEvent::Exited`] or an error.
#[derive(Debug)]
pub struct SessionReader {
    incoming: Polled<Receiver, Result<Incoming>>,
    sandbox: Sandbox,
    id: SessionId,
    timed_out: bool,
    is_over: bool,
    warnings: Vec<Error>,
}

/// The way into a session: its input, signals and terminal. Clones write to the same input.
#[derive(Clone, Debug)]
pub struct SessionWriter(Outgoing);

impl Session {
    /// The session of a connection whose first answer was `first`.
    pub(crate) fn new(connection: Connection, sandbox: Sandbox, first: &SupervisorMessage) -> Self {
        let (incoming, outgoing) = connection.split();
        let id = match first {
            SupervisorMessage::Started { session, .. } => *session,
            _ => 0,
        };
        Self {
            reader: SessionReader {
                incoming: Polled::new(incoming),
                sandbox,
                id: SessionId::new(id),
                // A busy guest may start a process only after its time limit.
                timed_out: *first == SupervisorMessage::TimedOut,
                is_over: false,
                warnings: Vec::new(),
            },
            writer: SessionWriter(outgoing),
        }
    }

    /// Its id; 0 for a command that was ended by its time limit before it started.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.reader.id
    }

    /// Its two halves.
    #[must_use]
    pub fn split(self) -> (SessionReader, SessionWriter) {
        (self.reader, self.writer)
    }

    /// The way in, to be used beside the session.
    #[must_use]
    pub fn writer(&self) -> SessionWriter {
        self.writer.clone()
    }

    /// As [`SessionReader::next`].
    ///
    /// # Errors
    /// As [`SessionReader::next`].
    pub async fn next(&mut self) -> Option<Result<SessionEvent>> {
        self.reader.next().await
    }

    /// As [`SessionReader::timed_out`].
    #[must_use]
    pub const fn timed_out(&self) -> bool {
        self.reader.timed_out
    }

    /// As [`SessionReader::warnings`].
    #[must_use]
    pub fn warnings(&self) -> &[Error] {
        &self.reader.warnings
    }
}

impl Stream for Session {
    type Item = Result<SessionEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.reader).poll_next(context)
    }
}

impl SessionReader {
    /// The next event; `None` behind the exit or an error.
    ///
    /// # Errors
    /// Why the sandbox failed, or that it does not run any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<SessionEvent>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Whether the process was ended, or is being ended, because its time limit was over.
    #[must_use]
    pub const fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// What went wrong around the process and may have ended it: memory that ran out, a host's
    /// disk that is full. Known once it has ended.
    #[must_use]
    pub fn warnings(&self) -> &[Error] {
        &self.warnings
    }

    /// What the supervisor sends, from where this reader is.
    pub(crate) fn into_receiver(self) -> Option<(Receiver, Sandbox)> {
        let sandbox = self.sandbox;
        self.incoming
            .into_idle()
            .map(|receiver| (receiver, sandbox))
    }

    /// What is of interest in what came.
    fn event(&mut self, incoming: Incoming) -> Option<Result<SessionEvent>> {
        match incoming {
            Incoming::Output { channel, bytes, .. } if !bytes.is_empty() => {
                Some(Ok(SessionEvent::Output { channel, bytes }))
            }
            // The supervisor sends one for memory and one for the disk.
            Incoming::Message(SupervisorMessage::Warning(failure))
                if self.warnings.len() < MAX_WARNINGS =>
            {
                let warning = cofferdam_runtime::remote_failure(&failure);
                self.warnings.push(warning);
                None
            }
            Incoming::Message(SupervisorMessage::Exited { status }) => {
                Some(Ok(SessionEvent::Exited(status)))
            }
            Incoming::Message(SupervisorMessage::TimedOut) => {
                self.timed_out = true;
                None
            }
            Incoming::Message(SupervisorMessage::Failed(failure)) => {
                Some(Err(cofferdam_runtime::remote_failure(&failure)))
            }
            _ => None,
        }
    }
}

impl Stream for SessionReader {
    type Item = Result<SessionEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.is_over {
            let sandbox = self.sandbox.clone();
            let call = async move |mut receiver: Receiver| {
                let next = next_of(&mut receiver, &sandbox).await;
                (receiver, next)
            };
            let item = match self.incoming.poll(context, call) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(incoming)) => self.event(incoming),
                Poll::Ready(Err(error)) => Some(Err(error)),
            };
            self.is_over = matches!(item, Some(Ok(SessionEvent::Exited(_)) | Err(_)));
            if item.is_some() {
                return Poll::Ready(item);
            }
        }
        Poll::Ready(None)
    }
}

/// What comes next; where the supervisor is lost, the error says what became of its sandbox.
pub(crate) async fn next_of(receiver: &mut Receiver, sandbox: &Sandbox) -> Result<Incoming> {
    match receiver.next().await {
        Err(error) if error.kind() == ErrorKind::SupervisorLost => {
            Err(sandbox.what_became(error).await)
        }
        incoming => incoming,
    }
}

impl SessionWriter {
    /// Sends input; waits while the process does not read.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the session has ended.
    ///
    /// # Cancel safety
    /// When the future is dropped, a start of the bytes of unknown length was sent.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.input(bytes).await
    }

    /// Ends the input. That of a workload ends only with the session that started it; one that
    /// was started without a session keeps it open for the next session.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the session has ended.
    pub async fn close(&mut self) -> Result<()> {
        self.0.end_input().await
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the session has ended.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let signal = signal.number();
        self.0.message(ClientMessage::Signal { signal }).await
    }

    /// Leaves: when the session is dropped now, the sandbox or command goes on, also one that was
    /// to end with it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the session has ended.
    pub async fn leave(&self) -> Result<()> {
        self.0.message(ClientMessage::Leave).await
    }

    /// Tells the process's terminal its new size in character cells.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the session has ended.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = TerminalSize { rows, columns };
        self.0.message(ClientMessage::Resize(size)).await
    }
}
