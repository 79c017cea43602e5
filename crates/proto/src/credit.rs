//! Credit: how much one side may send on a channel before the other asks for more.
//!
//! Each channel of each session starts with [`INITIAL_WINDOW_BYTES`]. The receiver gives credit
//! back as it hands bytes on, so a slow reader holds one window and no more on either side.

use crate::FrameError;

/// Bytes that may be under way on a fresh channel. Large enough that a guest under emulation is
/// never idle for a round trip, small enough that a thousand stalled channels are 256 MiB.
pub const INITIAL_WINDOW_BYTES: u32 = 256 << 10;

/// The sender's or the receiver's view of one channel's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    left: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A fresh channel's window.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            left: INITIAL_WINDOW_BYTES,
        }
    }

    /// Bytes that may still be sent.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left as usize
    }

    /// Takes `bytes` out of the window.
    ///
    /// # Errors
    /// [`FrameError::WindowExceeded`] when that is more than is left: on the receiving side the
    /// sender broke the protocol.
    pub fn spend(&mut self, bytes: usize) -> Result<(), FrameError> {
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.ok_or(FrameError::WindowExceeded)?;
        Ok(())
    }

    /// Puts `bytes` of credit into the window.
    ///
    /// # Errors
    /// [`FrameError::WindowExceeded`] when more is given back than was ever taken.
    pub fn give(&mut self, bytes: u32) -> Result<(), FrameError> {
        let left = self
            .left
            .checked_add(bytes)
            .filter(|left| *left <= INITIAL_WINDOW_BYTES);
        self.left = left.ok_or(FrameError::WindowExceeded)?;
        Ok(())
    }
}

/// The receiver's view of one channel: what the sender may still send, and whether it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    window: Window,
    ended: bool,
}

impl Inbound {
    /// A fresh channel.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            window: Window::new(),
            ended: false,
        }
    }

    /// Takes a data frame of so many bytes; `eof` is whether it is the last.
    ///
    /// # Errors
    /// [`FrameError::WindowExceeded`], and [`FrameError::AfterEnd`] when the channel has ended: the
    /// sender broke the protocol.
    pub fn receive(&mut self, bytes: usize, eof: bool) -> Result<(), FrameError> {
        if self.ended {
            return Err(FrameError::AfterEnd);
        }
        self.window.spend(bytes)?;
        self.ended = eof;
        Ok(())
    }

    /// Lets the sender send so many bytes more.
    ///
    /// # Errors
    /// [`FrameError::WindowExceeded`] when that is more than was received.
    pub fn give(&mut self, bytes: u32) -> Result<(), FrameError> {
        self.window.give(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_cannot_be_overspent_or_overfilled() {
        let mut window = Window::new();
        assert_eq!(window.give(1), Err(FrameError::WindowExceeded));
        window.spend(INITIAL_WINDOW_BYTES as usize).unwrap();
        assert_eq!(window.left(), 0);
        assert_eq!(window.spend(1), Err(FrameError::WindowExceeded));
        window.give(10).unwrap();
        assert_eq!(window.left(), 10);
    }

    #[test]
    fn an_ended_channel_takes_nothing_more() {
        let mut channel = Inbound::new();
        channel.receive(5, false).unwrap();
        channel.give(5).unwrap();
        channel.receive(0, true).unwrap();
        assert_eq!(channel.receive(0, true), Err(FrameError::AfterEnd));
        assert_eq!(channel.receive(1, false), Err(FrameError::AfterEnd));
    }
}
