//! One byte stream to a server in the guest, as the supervisor sees it.
//!
//! ```text
//!                connected            both ends, a reset, or its client is gone
//!   Connecting ───────────► Open ─────────────────────────────────────────────► removed
//! ```
//! A client that leaves without a reset ends its direction. What it wrote still goes to the server,
//! for a bounded time.

use cofferdam_proto::{FrameError, Inbound};
use tokio::time::Instant;

use super::{event::ClientId, input::Input, session::CREDIT_BATCH_BYTES};

/// A byte stream.
#[derive(Debug)]
pub(crate) struct GuestStream {
    /// Its client; none when that has left.
    pub(crate) client: Option<ClientId>,
    /// Bytes for the server.
    pub(crate) input: Input,
    /// What the guest may still send.
    window: Inbound,
    /// Bytes that the client has read, and for which the guest has no credit yet.
    due: u32,
    is_open: bool,
    /// Until when the guest may take what a client has left behind.
    pub(crate) lingers_until: Option<Instant>,
}

impl GuestStream {
    pub(crate) fn new(client: ClientId) -> Self {
        let mut input = Input::default();
        // The first of its writers.
        input.open(client);
        Self {
            client: Some(client),
            input,
            window: Inbound::new(),
            due: 0,
            is_open: false,
            lingers_until: None,
        }
    }

    /// The guest has connected it.
    ///
    /// # Errors
    /// When it had said so before.
    pub(crate) fn opened(&mut self) -> Result<(), FrameError> {
        match std::mem::replace(&mut self.is_open, true) {
            true => Err(FrameError::OutOfOrder),
            false => Ok(()),
        }
    }

    /// Whether the guest has connected it.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// The guest sent bytes of the server.
    ///
    /// # Errors
    /// When it sent more than its window, behind the end, or before it was connected.
    pub(crate) fn received(&mut self, bytes: usize, eof: bool) -> Result<(), FrameError> {
        if !self.is_open {
            return Err(FrameError::OutOfOrder);
        }
        self.window.receive(bytes, eof)
    }

    /// Bytes of the server were read.
    pub(crate) fn has_read(&mut self, bytes: u32) {
        self.due = self.due.saturating_add(bytes);
    }

    /// Credit to give the guest now. Small pieces wait for others, to spare the guest messages.
    pub(crate) fn take_credit(&mut self) -> u32 {
        if self.due < CREDIT_BATCH_BYTES {
            return 0;
        }
        let credit = std::mem::take(&mut self.due);
        // What was read was received before, so it fits.
        let _ = self.window.give(credit);
        credit
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::INITIAL_WINDOW_BYTES;

    use super::*;

    #[test]
    fn a_guest_that_breaks_the_order_or_its_window_is_found_out() {
        let mut stream = GuestStream::new(1);
        assert_eq!(stream.received(1, false), Err(FrameError::OutOfOrder));
        stream.opened().unwrap();
        assert_eq!(stream.opened(), Err(FrameError::OutOfOrder));
        stream
            .received(INITIAL_WINDOW_BYTES as usize, false)
            .unwrap();
        assert_eq!(stream.received(1, false), Err(FrameError::WindowExceeded));
        stream.has_read(CREDIT_BATCH_BYTES - 1);
        assert_eq!(stream.take_credit(), 0);
        stream.has_read(1);
        assert_eq!(stream.take_credit(), CREDIT_BATCH_BYTES);
        stream.received(1, true).unwrap();
        assert_eq!(stream.received(1, false), Err(FrameError::AfterEnd));
    }
}
