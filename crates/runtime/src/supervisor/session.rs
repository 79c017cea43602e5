//! One exec session in the supervisor: a process in the guest and the clients that follow it.
//!
//! ```text
//!             started               ended
//!   Starting ─────────► Running ─────────────► removed
//!     │                                           ▲
//!     └───────────────────────────────────────────┘ refused, or given up
//! ```
//! What the guest sends out of this order breaks the protocol.

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{
    Channel, ExecOptions, FrameError, INITIAL_WINDOW_BYTES, Inbound, SessionStatus,
};

use super::{event::ClientId, input::Input};

/// Credit goes to the guest in pieces of at least this many bytes; a quarter of a window, so that
/// what is held back never stops a guest.
pub(crate) const CREDIT_BATCH_BYTES: u32 = INITIAL_WINDOW_BYTES / 4;

/// The supervisor's view of a session.
///
/// Each of its readers sets the pace, as a reader of a pipe does: the guest gets credit for what
/// all of them have read. A session without a reader that is kept throws its output away.
#[derive(Debug)]
pub(crate) struct Session {
    readers: Vec<Reader>,
    /// Its input.
    pub(crate) input: Input,
    /// What the guest may still send on standard output and error.
    windows: [Inbound; 2],
    /// What the guest has sent, and what it was given credit for, since the start.
    received: [u64; 2],
    credited: [u64; 2],
    /// Program and arguments; a long command is cut.
    pub(crate) command: String,
    /// When it was asked for, in nanoseconds since the Unix epoch.
    pub(crate) started_ns: u64,
    /// What the client wants of it.
    pub(crate) options: ExecOptions,
    /// How far it has come.
    phase: Phase,
    /// How far its time limit has come.
    pub(crate) limit: Limit,
    /// Processes that were killed for want of memory before it began.
    pub(crate) oom_kills_before: u64,
}

/// A client that follows a session.
#[derive(Debug)]
struct Reader {
    client: ClientId,
    /// Bytes of each output, counted from the start, that it has read or was not there for.
    read: [u64; 2],
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
    pub(crate) fn new(client: ClientId, command: String, options: ExecOptions) -> Self {
        let mut session = Self {
            readers: Vec::new(),
            input: Input::default(),
            windows: [Inbound::new(); 2],
            received: [0; 2],
            credited: [0; 2],
            command,
            started_ns: unix_time_ns(),
            options,
            phase: Phase::Starting,
            limit: Limit::Within,
            oom_kills_before: 0,
        };
        // The first of its writers.
        let _ = session.attach(client, true);
        session
    }

    /// Adds a client, which gets what comes from now on. False when its input is one too many.
    pub(crate) fn attach(&mut self, client: ClientId, stdin: bool) -> bool {
        if stdin && !self.input.open(client) {
            return false;
        }
        let read = self.received;
        self.readers.push(Reader { client, read });
        true
    }

    /// Forgets a client; false if it was none of this session's.
    pub(crate) fn detach(&mut self, client: ClientId) -> bool {
        self.input.close(client);
        let before = self.readers.len();
        self.readers.retain(|reader| reader.client != client);
        self.readers.len() < before
    }

    /// Its clients.
    pub(crate) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.readers.iter().map(|reader| reader.client)
    }

    /// The answer to clients that ask about it.
    pub(crate) fn status(&self, session: u32) -> SessionStatus {
        SessionStatus {
            session,
            command: self.command.clone(),
            started_ns: self.started_ns,
            ended_ns: None,
            exit: None,
            timed_out: self.limit != Limit::Within,
            kept: self.options.keep,
            clients: u32::try_from(self.readers.len()).unwrap_or(u32::MAX),
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
        let index = output_index(channel)?;
        self.windows[index].receive(bytes, eof)?;
        self.received[index] += bytes as u64;
        Ok(())
    }

    /// A client has read output.
    pub(crate) fn has_read(&mut self, client: ClientId, channel: Channel, bytes: u32) {
        let mut readers = self.readers.iter_mut();
        if let Ok(index) = output_index(channel)
            && let Some(reader) = readers.find(|reader| reader.client == client)
        {
            reader.read[index] += u64::from(bytes);
        }
    }

    /// Credit to give the guest now, for each output. Small pieces wait for others, to spare the
    /// guest messages.
    pub(crate) fn take_credit(&mut self) -> [u32; 2] {
        let mut credit = [0; 2];
        for (index, given) in credit.iter_mut().enumerate() {
            let read = self.readers.iter().map(|reader| reader.read[index]).min();
            // A guest that was told to be quiet needs none, and a client cannot read what never came.
            let read = read
                .unwrap_or(self.received[index])
                .min(self.received[index]);
            let due = read.saturating_sub(self.credited[index]);
            if due >= u64::from(CREDIT_BATCH_BYTES) {
                // At most one window can be due.
                *given = u32::try_from(due).unwrap_or(u32::MAX);
                self.credited[index] = read;
                // What is due was spent before, so it fits.
                let _ = self.windows[index].give(*given);
            }
        }
        credit
    }
}

fn output_index(channel: Channel) -> Result<usize, FrameError> {
    match channel {
        Channel::Stdin => Err(FrameError::UnknownChannel(channel as u8)),
        Channel::Stdout => Ok(0),
        Channel::Stderr => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = INITIAL_WINDOW_BYTES as usize;

    fn session() -> Session {
        Session::new(1, String::new(), ExecOptions::default())
    }

    #[test]
    fn a_guest_that_ignores_its_window_is_found_out() {
        let mut session = session();
        session.received(Channel::Stdout, WINDOW, false).unwrap();
        assert!(session.received(Channel::Stdout, 1, false).is_err());
        assert!(session.received(Channel::Stderr, 1, false).is_ok());
        assert!(session.received(Channel::Stdin, 1, false).is_err());
        session.has_read(1, Channel::Stdout, CREDIT_BATCH_BYTES - 1);
        assert_eq!(session.take_credit(), [0, 0]);
        session.has_read(1, Channel::Stdout, 1);
        assert_eq!(session.take_credit(), [CREDIT_BATCH_BYTES, 0]);
        session
            .received(Channel::Stdout, CREDIT_BATCH_BYTES as usize, false)
            .unwrap();
    }

    #[test]
    fn the_slowest_of_several_readers_sets_the_pace_and_its_leaving_frees_the_guest() {
        let mut session = session();
        assert!(session.attach(2, false));
        session.received(Channel::Stdout, WINDOW, false).unwrap();
        session.has_read(1, Channel::Stdout, INITIAL_WINDOW_BYTES);
        assert_eq!(session.take_credit(), [0, 0]);
        session.has_read(2, Channel::Stdout, INITIAL_WINDOW_BYTES / 2);
        assert_eq!(session.take_credit(), [INITIAL_WINDOW_BYTES / 2, 0]);
        assert!(session.detach(2) && !session.detach(2));
        assert_eq!(session.take_credit(), [INITIAL_WINDOW_BYTES / 2, 0]);
        session.received(Channel::Stdout, WINDOW, false).unwrap();
        assert!(session.detach(1));
        assert_eq!(
            session.take_credit(),
            [INITIAL_WINDOW_BYTES, 0],
            "nobody reads"
        );
    }

    #[test]
    fn a_client_that_comes_later_owes_nothing_for_what_came_before() {
        let mut session = session();
        session.received(Channel::Stderr, WINDOW, false).unwrap();
        assert!(session.attach(2, false));
        session.has_read(1, Channel::Stderr, INITIAL_WINDOW_BYTES);
        assert_eq!(session.take_credit(), [0, INITIAL_WINDOW_BYTES]);
    }

    #[test]
    fn a_process_is_started_once() {
        let mut session = session();
        assert!(session.is_starting());
        session.started().unwrap();
        assert!(!session.is_starting());
        assert_eq!(session.started(), Err(FrameError::OutOfOrder));
    }
}
