//! The workload's own session: its output goes to the log and to every attached client.
//!
//! The client that started the workload and follows it sets the pace, as a reader of a pipe does:
//! the guest gets credit for what it has read. Others do not. One that does not read for a while
//! is served from the log ([`behind`]) until it has caught up, so it neither stops the workload
//! nor loses anything that the log still has, and holds no memory here.

mod replay;

use std::{collections::HashMap, path::PathBuf};

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{Channel, FrameError, Inbound, SupervisorMessage};

use self::replay::LogReplay;
use super::{client::Client, event::ClientId, input::Input, session::CREDIT_BATCH_BYTES};
use crate::{base::task::log_line, store::output_log::LogWriter};

/// The channels of output, by index.
pub(crate) const OUTPUTS: [Channel; 2] = [Channel::Stdout, Channel::Stderr];

/// An attached client.
#[derive(Debug)]
struct Attached {
    client: ClientId,
    role: Follower,
    /// Bytes of each output channel, counted from the workload's start, that it has read or was
    /// not there for. Kept for one that sets the pace.
    read: [u64; 2],
    /// Where it is in the log, when it did not keep up.
    replay: Option<LogReplay>,
}

/// What an attached client is to the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follower {
    /// It came later.
    Guest,
    /// It started the workload, which waits for it to read.
    Pace,
    /// The same, and the sandbox ends with it.
    Tied,
}

/// The workload's session.
#[derive(Debug)]
pub(crate) struct Workload {
    path: PathBuf,
    log: Option<LogWriter>,
    /// Whether its output is a terminal's.
    terminal: bool,
    attached: Vec<Attached>,
    /// The client whose end of input is the workload's; none for a sandbox that was started
    /// without one, whose input stays open.
    closes_input: Option<ClientId>,
    pub(crate) input: Input,
    windows: [Inbound; 2],
    received: [u64; 2],
    credited: [u64; 2],
}

impl Workload {
    /// A workload whose log is at `path`.
    pub(crate) fn new(path: PathBuf, terminal: bool) -> Self {
        let log = LogWriter::open(&path)
            .inspect_err(|error| log_line(&format!("There is no output log: {error}")))
            .ok();
        Self {
            path,
            log,
            terminal,
            attached: Vec::new(),
            closes_input: None,
            input: Input::default(),
            windows: [Inbound::new(); 2],
            received: [0; 2],
            credited: [0; 2],
        }
    }

    /// Adds a client; it gets what comes from now on. False when its input is one too many.
    pub(crate) fn attach(&mut self, client: ClientId, stdin: bool, role: Follower) -> bool {
        if stdin && !self.input.open(client) {
            return false;
        }
        if stdin && role != Follower::Guest {
            self.closes_input = Some(client);
        }
        self.attached.push(Attached {
            client,
            role,
            read: self.received,
            replay: None,
        });
        true
    }

    /// Whether a client is attached.
    pub(crate) fn is_followed(&self) -> bool {
        !self.attached.is_empty()
    }

    /// Forgets a client; true if the sandbox was tied to it.
    pub(crate) fn detach(&mut self, client: ClientId) -> bool {
        self.input.close(client);
        self.end_input_of(client);
        let tied = self
            .attached
            .iter()
            .any(|other| other.client == client && other.role == Follower::Tied);
        self.attached.retain(|other| other.client != client);
        tied
    }

    /// A client sends no more input. The workload's ends only with that of its own client, and a
    /// terminal stays open for the next one.
    pub(crate) fn end_input_of(&mut self, client: ClientId) {
        if self.closes_input == Some(client) && !self.terminal {
            self.input.end();
        }
    }

    /// Lets the sandbox go on without a client that it was tied to.
    pub(crate) fn untie(&mut self, client: ClientId) {
        for attached in &mut self.attached {
            if attached.client == client && attached.role == Follower::Tied {
                attached.role = Follower::Pace;
            }
        }
    }

    /// The guest sent output: it is logged, and forwarded to the clients that keep up.
    ///
    /// # Errors
    /// When the guest sent more than its window, or behind the end of a channel.
    pub(crate) fn received<Role>(
        &mut self,
        (channel, bytes, eof): (Channel, &[u8], bool),
        clients: &mut HashMap<ClientId, (Client, Role)>,
    ) -> Result<(), FrameError> {
        let index = output_index(channel)?;
        self.windows[index].receive(bytes.len(), eof)?;
        self.received[index] += bytes.len() as u64;
        let position = self.log(channel, bytes);
        for attached in &mut self.attached {
            if attached.replay.is_some() {
                continue;
            }
            if let Some((client, _)) = clients.get_mut(&attached.client)
                && !client.output(channel, bytes, eof)
            {
                attached.replay = Some(LogReplay::at(&self.path, position));
            }
        }
        Ok(())
    }

    /// Writes to the log; returns where, unless there is none.
    fn log(&mut self, channel: Channel, bytes: &[u8]) -> Option<u64> {
        let log = self.log.as_mut().filter(|_| !bytes.is_empty())?;
        match log.append(unix_time_ns(), channel, bytes) {
            Ok(written) => {
                if written.rotated {
                    let replay = self.attached.iter_mut().filter_map(|a| a.replay.as_mut());
                    replay.for_each(|replay| replay.rotated(&self.path));
                }
                Some(written.position)
            }
            Err(error) => {
                // A full disk must not stop the workload; clients that keep up still get everything.
                log_line(&format!("The output log ends here: {error}"));
                self.log = None;
                None
            }
        }
    }

    /// A client has read output, and may have room for what it has missed.
    pub(crate) fn has_read(&mut self, client: &mut Client, id: ClientId, of: (Channel, u32)) {
        let (channel, bytes) = of;
        let Ok(index) = output_index(channel) else {
            return;
        };
        let Some(attached) = self.attached.iter_mut().find(|other| other.client == id) else {
            return;
        };
        attached.read[index] += u64::from(bytes);
        if let Some(replay) = &mut attached.replay
            && replay.catch_up(client, self.terminal)
        {
            attached.replay = None;
        }
    }

    /// Tells a client how it ended: now, or behind what it has not got yet.
    pub(crate) fn tell_end(&mut self, client: &Client, id: ClientId, end: &SupervisorMessage) {
        let mut attached = self.attached.iter_mut();
        match attached.find(|other| other.client == id) {
            Some(Attached {
                replay: Some(replay),
                ..
            }) => replay.then(end.clone()),
            _ => client.answer(end),
        }
    }

    /// Credit to give the guest now, for each output channel; zero is none.
    pub(crate) fn take_credit(&mut self) -> [u32; 2] {
        let mut credit = [0; 2];
        for (index, given) in credit.iter_mut().enumerate() {
            let read = self
                .attached
                .iter()
                .filter(|attached| attached.role != Follower::Guest)
                .map(|attached| attached.read[index])
                .min();
            let read = read
                .unwrap_or(self.received[index])
                .min(self.received[index]);
            let due = read - self.credited[index];
            if due >= u64::from(CREDIT_BATCH_BYTES) || (due > 0 && read == self.received[index]) {
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
    OUTPUTS
        .iter()
        .position(|output| *output == channel)
        .ok_or(FrameError::UnknownChannel(channel as u8))
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::INITIAL_WINDOW_BYTES;

    use super::*;

    const WINDOW: usize = INITIAL_WINDOW_BYTES as usize;

    fn workload(terminal: bool) -> (Workload, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Workload::new(dir.path().join("output.log"), terminal), dir)
    }

    /// Output without anybody to forward it to.
    fn receive(workload: &mut Workload, bytes: usize) -> Result<(), FrameError> {
        let mut nobody = HashMap::<ClientId, (Client, ())>::new();
        workload.received((Channel::Stdout, &vec![0; bytes], false), &mut nobody)
    }

    fn reads(workload: &mut Workload, id: ClientId, bytes: u32) {
        let (mut client, _queue) = Client::for_tests();
        workload.has_read(&mut client, id, (Channel::Stdout, bytes));
    }

    #[test]
    fn without_clients_the_guest_gets_its_credit_at_once() {
        let (mut workload, _dir) = workload(false);
        for _ in 0..10 {
            receive(&mut workload, WINDOW).unwrap();
            assert_eq!(workload.take_credit(), [INITIAL_WINDOW_BYTES, 0]);
        }
    }

    #[test]
    fn only_the_client_that_started_it_sets_the_pace_and_leaving_frees_it() {
        let (mut workload, _dir) = workload(false);
        workload.attach(1, false, Follower::Tied);
        workload.attach(2, false, Follower::Guest);
        receive(&mut workload, WINDOW).unwrap();
        reads(&mut workload, 2, INITIAL_WINDOW_BYTES);
        assert_eq!(workload.take_credit(), [0, 0]);
        assert!(receive(&mut workload, 1).is_err());
        assert!(!workload.detach(2));
        assert_eq!(workload.take_credit(), [0, 0]);
        reads(&mut workload, 1, INITIAL_WINDOW_BYTES);
        assert_eq!(workload.take_credit(), [INITIAL_WINDOW_BYTES, 0]);
        receive(&mut workload, WINDOW).unwrap();
        assert!(workload.detach(1));
        assert_eq!(workload.take_credit(), [INITIAL_WINDOW_BYTES, 0]);
    }

    #[test]
    fn the_end_of_input_is_that_of_the_client_that_started_it() {
        let ends = |workload: &mut Workload| {
            let mut out = Vec::new();
            workload.input.drain(1, &mut out);
            !out.is_empty()
        };
        let (mut detached, _dir) = workload(false);
        assert!(detached.attach(1, true, Follower::Guest));
        assert!(detached.attach(2, true, Follower::Guest));
        detached.end_input_of(1);
        detached.detach(1);
        assert!(detached.input.is_open_for(2) && !ends(&mut detached));

        let (mut foreground, _dir) = workload(false);
        foreground.attach(1, true, Follower::Pace);
        foreground.attach(2, true, Follower::Guest);
        foreground.end_input_of(2);
        assert!(!ends(&mut foreground));
        foreground.detach(1);
        assert!(ends(&mut foreground));

        let (mut terminal, _dir) = workload(true);
        terminal.attach(1, true, Follower::Pace);
        // What a client sends whose terminal is gone.
        terminal.end_input_of(1);
        terminal.detach(1);
        assert!(!ends(&mut terminal));
    }

    #[test]
    fn a_client_that_does_not_read_gets_all_from_the_log_and_then_the_end() {
        let (mut workload, _dir) = workload(false);
        let (client, mut queue) = Client::for_tests();
        let mut clients = HashMap::from([(1, (client, ()))]);
        workload.attach(1, false, Follower::Guest);
        let mut sent = Vec::new();
        // More than its window and more than one record.
        for number in 0..100_u8 {
            let bytes = vec![number; 20_000];
            workload
                .received((Channel::Stdout, &bytes, false), &mut clients)
                .unwrap();
            assert_ne!(workload.take_credit(), [0, 0]);
            sent.extend(bytes);
        }
        let end = SupervisorMessage::Done;
        let (client, ()) = clients.get_mut(&1).unwrap();
        workload.tell_end(client, 1, &end);
        let mut got = Vec::new();
        loop {
            let (bytes, answers) = Client::drain_for_tests(&mut queue);
            got.extend_from_slice(&bytes);
            if answers == [end.clone()] {
                break;
            }
            assert!(!bytes.is_empty() && answers.is_empty(), "{answers:?}");
            let read = u32::try_from(bytes.len()).unwrap();
            assert!(client.credit(Channel::Stdout, read));
            workload.has_read(client, 1, (Channel::Stdout, read));
        }
        assert!(got == sent, "{} of {}", got.len(), sent.len());
    }
}
