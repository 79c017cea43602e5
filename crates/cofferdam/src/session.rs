//! One process in a sandbox and its streams.

use cofferdam_runtime::{
    Channel, ClientMessage, Connection, Error, ErrorKind, Incoming, Outgoing, Receiver, Result,
    SupervisorMessage, TerminalSize,
};
use cofferdam_types::{ExitStatus, Signal};

use crate::Sandbox;

/// Most warnings that are kept.
const MAX_WARNINGS: usize = 8;

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

/// A process in a sandbox. Dropping it leaves the process to itself, unless it was started to end
/// with it.
///
/// A reader that stops reading stops the process when a quarter of a megabyte is under way;
/// nothing is buffered beyond that and nothing is lost.
#[derive(Debug)]
pub struct Session {
    incoming: Receiver,
    input: SessionInput,
    sandbox: Sandbox,
    timed_out: bool,
    warnings: Vec<Error>,
}

/// The way into a session: its input, signals and terminal. May be used beside the session.
#[derive(Clone, Debug)]
pub struct SessionInput(Outgoing);

impl Session {
    /// The session of a connection whose first answer was `first`.
    pub(crate) fn new(connection: Connection, sandbox: Sandbox, first: &SupervisorMessage) -> Self {
        let (incoming, outgoing) = connection.split();
        Self {
            incoming,
            input: SessionInput(outgoing),
            sandbox,
            // A busy guest may start a process only after its time limit.
            timed_out: *first == SupervisorMessage::TimedOut,
            warnings: Vec::new(),
        }
    }

    /// Whether the process was ended, or is being ended, because its time limit was over.
    #[must_use]
    pub const fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// The way in.
    #[must_use]
    pub fn input(&self) -> SessionInput {
        self.input.clone()
    }

    /// What went wrong around the process and may have ended it: memory that ran out, a host's
    /// disk that is full. Known once it has ended.
    #[must_use]
    pub fn warnings(&self) -> &[Error] {
        &self.warnings
    }

    /// What comes next.
    ///
    /// # Errors
    /// Why the sandbox failed, or that it does not run any more. After an error or
    /// [`SessionEvent::Exited`] nothing comes any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<SessionEvent> {
        loop {
            let incoming = match self.incoming.next().await {
                Err(error) if error.kind() == ErrorKind::SupervisorLost => {
                    return Err(self.sandbox.what_became(error).await);
                }
                incoming => incoming?,
            };
            match incoming {
                Incoming::Output { channel, bytes, .. } if !bytes.is_empty() => {
                    return Ok(SessionEvent::Output { channel, bytes });
                }
                // The supervisor sends one for memory and one for the disk.
                Incoming::Message(SupervisorMessage::Warning(failure))
                    if self.warnings.len() < MAX_WARNINGS =>
                {
                    self.warnings
                        .push(cofferdam_runtime::remote_failure(&failure));
                }
                Incoming::Message(SupervisorMessage::Exited { status }) => {
                    return Ok(SessionEvent::Exited(status));
                }
                Incoming::Message(SupervisorMessage::TimedOut) => self.timed_out = true,
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
        self.0
            .message(ClientMessage::Signal {
                signal: signal.number(),
            })
            .await
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
        self.0
            .message(ClientMessage::Resize(TerminalSize { rows, columns }))
            .await
    }
}
