//! The workload's own session: its output goes to the log and to every attached client.
//!
//! The guest gets credit for bytes that all attached clients have read, so nothing is buffered
//! beyond one window and nothing is lost. A client that stalls would so stop the workload: the
//! client that the sandbox is tied to may (it is the workload's terminal), others are dropped
//! after [`STALL_CHECKS`] checks without progress.

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{Channel, FrameError, Window};

use super::{event::ClientId, input::Input, log_line, session::CREDIT_BATCH_BYTES};
use crate::output_log::LogWriter;

/// How many checks in a row may find an attached client stalled before it is dropped.
const STALL_CHECKS: u32 = 2;

/// The channels of output, by index.
pub(crate) const OUTPUTS: [Channel; 2] = [Channel::Stdout, Channel::Stderr];

/// An attached client.
#[derive(Debug)]
struct Attached {
    client: ClientId,
    tied: bool,
    /// Bytes of each output channel, counted from the workload's start, that it has read or was
    /// not there for.
    read: [u64; 2],
    stalled: u32,
    progressed: bool,
}

/// The workload's session.
#[derive(Debug)]
pub(crate) struct Workload {
    log: Option<LogWriter>,
    attached: Vec<Attached>,
    input_owner: Option<ClientId>,
    pub(crate) input: Input,
    windows: [Window; 2],
    received: [u64; 2],
    credited: [u64; 2],
}

impl Workload {
    pub(crate) fn new(log: Option<LogWriter>) -> Self {
        Self {
            log,
            attached: Vec::new(),
            input_owner: None,
            input: Input::default(),
            windows: [Window::new(); 2],
            received: [0; 2],
            credited: [0; 2],
        }
    }

    /// Adds a client; it gets what comes from now on.
    pub(crate) fn attach(&mut self, client: ClientId, stdin: bool, tied: bool) {
        if stdin && self.input_owner.is_none() {
            self.input_owner = Some(client);
        }
        let read = self.received;
        self.attached.push(Attached {
            client,
            tied,
            read,
            stalled: 0,
            progressed: false,
        });
    }

    /// Forgets a client; true if the sandbox was tied to it.
    pub(crate) fn detach(&mut self, client: ClientId) -> bool {
        if self.input_owner == Some(client) {
            self.input_owner = None;
        }
        let tied = self
            .attached
            .iter()
            .any(|other| other.client == client && other.tied);
        self.attached.retain(|other| other.client != client);
        tied
    }

    /// Lets the sandbox go on without a client that it was tied to.
    pub(crate) fn untie(&mut self, client: ClientId) {
        for attached in &mut self.attached {
            attached.tied &= attached.client != client;
        }
    }

    /// The clients that get output.
    pub(crate) fn clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.attached.iter().map(|attached| attached.client)
    }

    /// Whether this client's input is the workload's.
    pub(crate) fn owns_input(&self, client: ClientId) -> bool {
        self.input_owner == Some(client)
    }

    /// The client whose input is the workload's.
    pub(crate) const fn input_owner(&self) -> Option<ClientId> {
        self.input_owner
    }

    /// The guest sent output: it is logged here and forwarded by the caller.
    ///
    /// # Errors
    /// When the guest sent more than its window.
    pub(crate) fn received(&mut self, channel: Channel, bytes: &[u8]) -> Result<(), FrameError> {
        let index = output_index(channel)?;
        self.windows[index].spend(bytes.len())?;
        self.received[index] += bytes.len() as u64;
        if let Some(log) = &mut self.log
            && !bytes.is_empty()
            && let Err(error) = log.append(unix_time_ns(), channel, bytes)
        {
            // A full disk must not stop the workload; attached clients still get everything.
            log_line(&format!("The output log ends here: {error}"));
            self.log = None;
        }
        Ok(())
    }

    /// A client has read output.
    pub(crate) fn has_read(&mut self, client: ClientId, channel: Channel, bytes: u32) {
        let Ok(index) = output_index(channel) else {
            return;
        };
        if let Some(attached) = self
            .attached
            .iter_mut()
            .find(|other| other.client == client)
        {
            attached.read[index] += u64::from(bytes);
            attached.progressed = true;
        }
    }

    /// Credit to give the guest now, for each output channel; zero is none.
    pub(crate) fn take_credit(&mut self) -> [u32; 2] {
        let mut credit = [0; 2];
        for (index, given) in credit.iter_mut().enumerate() {
            let read = self
                .attached
                .iter()
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

    /// The clients that have not read for too long although there was something to read.
    pub(crate) fn stalled(&mut self) -> Vec<ClientId> {
        let received = self.received;
        for attached in &mut self.attached {
            let waits = attached.read != received;
            let stuck = waits && !attached.progressed && !attached.tied;
            attached.stalled = if stuck { attached.stalled + 1 } else { 0 };
            attached.progressed = false;
        }
        let is_stalled = |attached: &&Attached| attached.stalled >= STALL_CHECKS;
        self.attached
            .iter()
            .filter(is_stalled)
            .map(|attached| attached.client)
            .collect()
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

    #[test]
    fn without_clients_the_guest_gets_its_credit_at_once() {
        let mut workload = Workload::new(None);
        for _ in 0..10 {
            workload
                .received(Channel::Stdout, &vec![0; WINDOW])
                .unwrap();
            assert_eq!(workload.take_credit(), [INITIAL_WINDOW_BYTES, 0]);
        }
    }

    #[test]
    fn the_slowest_client_sets_the_pace_and_leaving_frees_it() {
        let mut workload = Workload::new(None);
        workload.attach(1, false, true);
        workload.attach(2, false, false);
        workload
            .received(Channel::Stdout, &vec![0; WINDOW])
            .unwrap();
        workload.has_read(1, Channel::Stdout, INITIAL_WINDOW_BYTES);
        assert_eq!(workload.take_credit(), [0, 0]);
        assert!(workload.received(Channel::Stdout, &[0]).is_err());
        assert!(!workload.detach(2));
        assert_eq!(workload.take_credit(), [INITIAL_WINDOW_BYTES, 0]);
        assert!(workload.detach(1));
    }

    #[test]
    fn only_a_client_that_is_not_the_terminal_is_dropped_for_stalling() {
        let mut workload = Workload::new(None);
        workload.attach(1, false, true);
        workload.attach(2, false, false);
        workload.attach(3, false, false);
        workload.received(Channel::Stderr, &[0; 10]).unwrap();
        workload.has_read(3, Channel::Stderr, 10);
        assert!(workload.stalled().is_empty());
        assert_eq!(workload.stalled(), [2]);
    }

    #[test]
    fn input_belongs_to_the_first_who_asked_until_it_leaves() {
        let mut workload = Workload::new(None);
        workload.attach(1, true, false);
        workload.attach(2, true, false);
        assert!(workload.owns_input(1) && !workload.owns_input(2));
        workload.detach(1);
        workload.attach(3, true, false);
        assert!(workload.owns_input(3));
    }
}
