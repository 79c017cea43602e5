//! One exec session in the supervisor: a process in the guest and the client that asked for it.
//!
//! ```text
//!             started               ended
//!   Starting ─────────► Running ─────────────► removed
//!     │                                           ▲
//!     └───────────────────────────────────────────┘ refused, or given up
//! ```
//! What the guest sends out of this order breaks the protocol.

use cofferdam_proto::{Channel, ExecOptions, FrameError, INITIAL_WINDOW_BYTES, Inbound};

use super::{event::ClientId, input::Input};

/// Credit goes to the guest in pieces of at least this many bytes; a quarter of a window, so that
/// what is held back never stops a guest.
pub(crate) const CREDIT_BATCH_BYTES: u32 = INITIAL_WINDOW_BYTES / 4;

/// The supervisor's view of a session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Who reads its output; none after the client left.
    pub(crate) client: Option<ClientId>,
    /// Its input.
    pub(crate) input: Input,
    /// What the guest may still send on standard output and error.
    windows: [Inbound; 2],
    /// What the client has read and the guest has not been told of.
    due: [u32; 2],
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// What the client wants of it.
    pub(crate) options: ExecOptions,
    /// How far it has come.
    phase: Phase,
    /// How far its time limit has come.
    pub(crate) limit: Limit,
    /// Processes that were killed for want of memory before it began.
    pub(crate) oom_kills_before: u64,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest is to start its process.
    Starting,
    /// Its process runs.
    Running,
}

/// The steps by which a session that takes too long is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// It has time left, or no limit.
    Within,
    /// It was sent SIGTERM.
    Asked,
    /// It was sent SIGKILL.
    Killed,
}

impl Session {
    pub(crate) fn new(client: ClientId, command: Vec<String>, options: ExecOptions) -> Self {
        let mut input = Input::default();
        // The first of its writers.
        let _ = input.open(client);
        Self {
            client: Some(client),
            input,
            windows: [Inbound::new(); 2],
            due: [0; 2],
            command,
            options,
            phase: Phase::Starting,
            limit: Limit::Within,
            oom_kills_before: 0,
        }
    }

    /// The guest has started the process.
    ///
    /// # Errors
    /// When it had said so before.
    pub(crate) fn started(&mut self) -> Result<(), FrameError> {
        match self.phase {
            Phase::Running => Err(FrameError::OutOfOrder),
            Phase::Starting => {
                self.phase = Phase::Running;
                Ok(())
            }
        }
    }

    /// Whether the guest is still to start its process.
    pub(crate) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    /// The guest sent output.
    ///
    /// # Errors
    /// When it sent more than its window, behind the end, or on a channel that is not output.
    pub(crate) fn received(
        &mut self,
        channel: Channel,
        bytes: usize,
        eof: bool,
    ) -> Result<(), FrameError> {
        self.window(channel)?.receive(bytes, eof)
    }

    /// The client has read output; returns what the guest is to be told now. Small pieces wait
    /// for others, to spare the guest messages.
    ///
    /// # Errors
    /// When that is more than was sent.
    pub(crate) fn allow(&mut self, channel: Channel, bytes: u32) -> Result<u32, FrameError> {
        let index = usize::from(channel == Channel::Stderr);
        let due = self.due[index].saturating_add(bytes);
        if due < CREDIT_BATCH_BYTES {
            self.due[index] = due;
            return Ok(0);
        }
        self.due[index] = 0;
        self.window(channel)?.give(due)?;
        Ok(due)
    }

    fn window(&mut self, channel: Channel) -> Result<&mut Inbound, FrameError> {
        match channel {
            Channel::Stdin => Err(FrameError::UnknownChannel(channel as u8)),
            Channel::Stdout => Ok(&mut self.windows[0]),
            Channel::Stderr => Ok(&mut self.windows[1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_ignores_its_window_is_found_out() {
        let mut session = Session::new(1, Vec::new(), ExecOptions::default());
        let window = INITIAL_WINDOW_BYTES as usize;
        session.received(Channel::Stdout, window, false).unwrap();
        assert!(session.received(Channel::Stdout, 1, false).is_err());
        assert!(session.received(Channel::Stderr, 1, false).is_ok());
        assert!(session.received(Channel::Stdin, 1, false).is_err());
        assert_eq!(
            session.allow(Channel::Stdout, CREDIT_BATCH_BYTES - 1),
            Ok(0)
        );
        assert_eq!(session.allow(Channel::Stdout, 1), Ok(CREDIT_BATCH_BYTES));
        session
            .received(Channel::Stdout, CREDIT_BATCH_BYTES as usize, false)
            .unwrap();
    }

    #[test]
    fn a_process_is_started_once() {
        let mut session = Session::new(1, Vec::new(), ExecOptions::default());
        assert!(session.is_starting());
        session.started().unwrap();
        assert!(!session.is_starting());
        assert_eq!(session.started(), Err(FrameError::OutOfOrder));
    }
}
