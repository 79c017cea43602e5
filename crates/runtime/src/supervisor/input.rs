//! A session's standard input on its way from a client to the guest.
//!
//! Holds at most one window of bytes for each client that ever wrote: a client may send
//! [`cofferdam_proto::INITIAL_WINDOW_BYTES`] before it gets credit, and gets it only for bytes
//! that went on to the guest.

use cofferdam_proto::{Channel, FrameError, INITIAL_WINDOW_BYTES, Window, encode_data};

/// Most that may wait: two clients' windows, the one that left and the one that came.
const MAX_PENDING_BYTES: usize = 2 * INITIAL_WINDOW_BYTES as usize;

/// One session's input.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pending: Vec<u8>,
    ends: bool,
    ended: bool,
    guest: Window,
}

impl Input {
    /// Takes bytes from a client.
    ///
    /// # Errors
    /// When the client sent more than its window: it broke the protocol.
    pub(crate) fn push(&mut self, bytes: &[u8], eof: bool) -> Result<(), FrameError> {
        if self.pending.len() + bytes.len() > MAX_PENDING_BYTES {
            return Err(FrameError::WindowExceeded);
        }
        if !self.ends {
            self.pending.extend_from_slice(bytes);
            self.ends |= eof;
        }
        Ok(())
    }

    /// The guest has taken bytes.
    pub(crate) fn credit(&mut self, bytes: u32) -> Result<(), FrameError> {
        self.guest.give(bytes)
    }

    /// Appends to `out` what the guest can take now on `stream`; returns how many bytes went.
    pub(crate) fn drain(&mut self, stream: u32, out: &mut Vec<u8>) -> u32 {
        if self.ended {
            return 0;
        }
        let count = self.pending.len().min(self.guest.left());
        let last = self.ends && count == self.pending.len();
        encode_data(stream, Channel::Stdin, &self.pending[..count], last, out);
        self.pending.drain(..count);
        self.ended = last;
        // The count is bounded by the window that it is about to leave.
        let _ = self.guest.spend(count);
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::{Decoder, HEADER_BYTES};

    use super::*;

    const WINDOW: usize = INITIAL_WINDOW_BYTES as usize;

    #[test]
    fn input_waits_for_the_guest_and_ends_behind_the_last_byte() {
        let mut input = Input::default();
        input.push(&vec![1; WINDOW], false).unwrap();
        input.push(&[2; 10], true).unwrap();
        let mut out = Vec::new();
        assert_eq!(input.drain(7, &mut out) as usize, WINDOW);
        assert_eq!(input.drain(7, &mut out), 0);
        input.credit(INITIAL_WINDOW_BYTES).unwrap();
        out.clear();
        assert_eq!(input.drain(7, &mut out), 10);
        let mut decoder = Decoder::new();
        decoder.push(&out);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert!(frame.eof);
        assert_eq!(frame.payload, [2; 10]);
    }

    #[test]
    fn the_end_is_sent_once_and_nothing_after_it() {
        let mut input = Input::default();
        input.push(&[], true).unwrap();
        let mut out = Vec::new();
        input.drain(1, &mut out);
        assert_eq!(out.len(), HEADER_BYTES);
        input.push(b"late", true).unwrap();
        assert_eq!(input.drain(1, &mut out), 0);
        assert_eq!(out.len(), HEADER_BYTES);
    }

    #[test]
    fn a_client_that_ignores_its_window_is_found_out() {
        let mut input = Input::default();
        assert!(input.push(&vec![0; MAX_PENDING_BYTES], false).is_ok());
        assert!(input.push(&[0], false).is_err());
    }
}
