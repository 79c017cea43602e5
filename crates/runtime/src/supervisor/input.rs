//! A session's standard input on its way from its clients to the guest.
//!
//! A client may send [`cofferdam_proto::INITIAL_WINDOW_BYTES`] before it gets credit, and gets it
//! for bytes that went on to the guest. So what waits is at most one window for each of
//! [`MAX_WRITERS`] clients, those among them that have left.

use std::collections::{BTreeMap, VecDeque};

use cofferdam_proto::{Channel, FrameError, INITIAL_WINDOW_BYTES, Window, encode_data};

use super::event::ClientId;

/// Most clients whose bytes may wait at once.
pub(crate) const MAX_WRITERS: usize = 16;

/// One session's input.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pending: Vec<u8>,
    /// Whose bytes those are, and how many in a row.
    pieces: VecDeque<(ClientId, usize)>,
    writers: BTreeMap<ClientId, Writer>,
    ends: bool,
    ended: bool,
    guest: Window,
}

#[derive(Debug, Default)]
struct Writer {
    /// How many of its bytes wait.
    waiting: usize,
    left: bool,
}

impl Input {
    /// Lets a client write; false when too many others do, or have left bytes behind that the
    /// guest does not read.
    pub(crate) fn open(&mut self, client: ClientId) -> bool {
        if self.writers.len() >= MAX_WRITERS {
            return false;
        }
        self.writers.insert(client, Writer::default());
        true
    }

    /// A client has left; what it wrote is still the guest's.
    pub(crate) fn close(&mut self, client: ClientId) {
        if let Some(writer) = self.writers.get_mut(&client) {
            writer.left = true;
            self.forget_if_done(client);
        }
    }

    /// Whether a client may write.
    pub(crate) fn is_open_for(&self, client: ClientId) -> bool {
        self.writers.get(&client).is_some_and(|writer| !writer.left)
    }

    /// Takes bytes from a client.
    ///
    /// # Errors
    /// When the client sent more than its window, or may not write: it broke the protocol.
    pub(crate) fn push(&mut self, client: ClientId, bytes: &[u8]) -> Result<(), FrameError> {
        let writer = self
            .writers
            .get_mut(&client)
            .filter(|writer| writer.waiting + bytes.len() <= INITIAL_WINDOW_BYTES as usize)
            .ok_or(FrameError::WindowExceeded)?;
        if !self.ends && !bytes.is_empty() {
            writer.waiting += bytes.len();
            self.pending.extend_from_slice(bytes);
            match self.pieces.back_mut() {
                Some((last, length)) if *last == client => *length += bytes.len(),
                _ => self.pieces.push_back((client, bytes.len())),
            }
        }
        Ok(())
    }

    /// Nothing comes behind what is there.
    pub(crate) fn end(&mut self) {
        self.ends = true;
    }

    /// The guest has taken bytes.
    pub(crate) fn credit(&mut self, bytes: u32) -> Result<(), FrameError> {
        self.guest.give(bytes)
    }

    /// Whether all bytes and the end went to the guest, and it has taken them.
    pub(crate) fn is_delivered(&self) -> bool {
        self.ended && self.guest == Window::new()
    }

    /// Appends to `out` what the guest can take now on `stream`; returns how many bytes of which
    /// clients went.
    pub(crate) fn drain(&mut self, stream: u32, out: &mut Vec<u8>) -> Vec<(ClientId, u32)> {
        if self.ended {
            return Vec::new();
        }
        let count = self.pending.len().min(self.guest.left());
        let last = self.ends && count == self.pending.len();
        encode_data(stream, Channel::Stdin, &self.pending[..count], last, out);
        self.pending.drain(..count);
        self.ended = last;
        // The count is bounded by the window that it is about to leave.
        let _ = self.guest.spend(count);
        self.account(count)
    }

    fn account(&mut self, count: usize) -> Vec<(ClientId, u32)> {
        let (mut rest, mut taken) = (count, Vec::new());
        while rest > 0
            && let Some((client, length)) = self.pieces.front_mut()
        {
            let part = rest.min(*length);
            let client = *client;
            rest -= part;
            *length -= part;
            if *length == 0 {
                self.pieces.pop_front();
            }
            if let Some(writer) = self.writers.get_mut(&client) {
                writer.waiting -= part;
            }
            self.forget_if_done(client);
            taken.push((client, u32::try_from(part).unwrap_or(u32::MAX)));
        }
        taken
    }

    fn forget_if_done(&mut self, client: ClientId) {
        let is_done = |writer: &Writer| writer.left && writer.waiting == 0;
        if self.writers.get(&client).is_some_and(is_done) {
            self.writers.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::{Decoder, HEADER_BYTES};

    use super::*;

    const WINDOW: usize = INITIAL_WINDOW_BYTES as usize;

    fn open(clients: &[ClientId]) -> Input {
        let mut input = Input::default();
        for client in clients {
            assert!(input.open(*client));
        }
        input
    }

    #[test]
    fn input_waits_for_the_guest_and_ends_behind_the_last_byte() {
        let mut input = open(&[1, 2]);
        input.push(1, &vec![1; WINDOW]).unwrap();
        input.push(2, &[2; 10]).unwrap();
        input.end();
        let mut out = Vec::new();
        assert_eq!(input.drain(7, &mut out), [(1, INITIAL_WINDOW_BYTES)]);
        assert_eq!(input.drain(7, &mut out), []);
        input.credit(INITIAL_WINDOW_BYTES).unwrap();
        out.clear();
        assert_eq!(input.drain(7, &mut out), [(2, 10)]);
        let mut decoder = Decoder::new();
        decoder.push(&out);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert!(frame.eof);
        assert_eq!(frame.payload, [2; 10]);
    }

    #[test]
    fn the_end_is_sent_once_and_nothing_after_it() {
        let mut input = open(&[1]);
        input.end();
        let mut out = Vec::new();
        input.drain(1, &mut out);
        assert_eq!(out.len(), HEADER_BYTES);
        input.push(1, b"late").unwrap();
        assert_eq!(input.drain(1, &mut out), []);
        assert_eq!(out.len(), HEADER_BYTES);
    }

    #[test]
    fn a_client_that_ignores_its_window_is_found_out_and_others_are_not() {
        let mut input = open(&[1, 2]);
        assert!(input.push(1, &vec![0; WINDOW]).is_ok());
        assert!(input.push(1, &[0]).is_err());
        assert!(input.push(2, &[0]).is_ok());
        assert!(input.push(3, &[0]).is_err());
    }

    #[test]
    fn two_clients_take_turns_and_each_gets_its_own_credit() {
        let mut input = open(&[1, 2]);
        for (client, bytes) in [(1, b"one "), (2, b"two "), (1, b"end ")] {
            input.push(client, bytes).unwrap();
        }
        let mut out = Vec::new();
        assert_eq!(input.drain(1, &mut out), [(1, 4), (2, 4), (1, 4)]);
        assert!(out.ends_with(b"one two end "));
    }

    #[test]
    fn what_clients_leave_behind_is_bounded() {
        let mut input = Input::default();
        let mut out = Vec::new();
        input.open(0);
        input.push(0, &vec![0; WINDOW]).unwrap();
        input.drain(1, &mut out);
        input.close(0);
        // The guest reads no more.
        for client in 1..=16 {
            assert!(input.open(client));
            input.push(client, &[0]).unwrap();
            input.close(client);
            assert!(!input.is_open_for(client));
        }
        assert!(!input.open(17));
        input.credit(INITIAL_WINDOW_BYTES).unwrap();
        input.drain(1, &mut out);
        assert!(input.open(17));
    }
}
