//! One process in a sandbox and its streams.

use cofferdam_runtime::{
    Channel, ClientMessage, Connection, Incoming, Outgoing, Receiver, Result, SupervisorMessage,
    TerminalSize,
};
use cofferdam_types::{ExitStatus, Signal};

/// What a session yields.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A process in a sandbox. Dropping it leaves the process to itself.
///
/// A reader that stops reading stops the process when a quarter of a megabyte is under way;
/// nothing is buffered beyond that and nothing is lost.
#[derive(Debug)]
pub struct Session {
    incoming: Receiver,
    input: SessionInput,
}

/// The way into a session: its input, signals and terminal. May be used beside the session.
#[derive(Clone, Debug)]
pub struct SessionInput(Outgoing);

impl Session {
    pub(crate) fn new(connection: Connection) -> Self {
        let (incoming, outgoing) = connection.split();
        Self {
            incoming,
            input: SessionInput(outgoing),
        }
    }

    /// The way in.
    #[must_use]
    pub fn input(&self) -> SessionInput {
        self.input.clone()
    }

    /// What comes next.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the sandbox's supervisor died, or why the sandbox
    /// failed. After an error or [`SessionEvent::Exited`] nothing comes any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<SessionEvent> {
        loop {
            match self.incoming.next().await? {
                Incoming::Output { channel, bytes, .. } if !bytes.is_empty() => {
                    return Ok(SessionEvent::Output { channel, bytes });
                }
                Incoming::Message(SupervisorMessage::Exited { status }) => {
                    return Ok(SessionEvent::Exited(status));
                }
                Incoming::Message(SupervisorMessage::Failed(failure)) => {
                    return Err(cofferdam_runtime::remote_failure(&failure));
                }
                _ => {}
            }
        }
    }
}

impl SessionInput {
    /// Sends input; waits while the process does not read.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SupervisorLost`] when the session has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.input(bytes).await
    }

    /// Ends the input.
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
        self.0
            .message(ClientMessage::Signal {
                signal: signal.number(),
            })
            .await
    }

    /// Leaves: when the session is dropped now, the sandbox goes on, also one that was started for
    /// it.
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
        self.0
            .message(ClientMessage::Resize(TerminalSize { rows, columns }))
            .await
    }
}
