//! Whole Ethernet frames in and out: the one door between a stack and its guest.
//!
//! The stack is the only caller. It waits until the descriptor is readable, calls
//! [`FrameIo::fill`], handles all frames of the [`Input`], and sends what it has with one
//! [`FrameIo::flush`]. So a system call carries as many frames as the other side has ready.

mod input;
mod packet;
mod stream;

use std::{io, os::fd::BorrowedFd};

pub use input::Input;
pub use packet::PacketSocket;
pub use stream::FrameStream;

/// Largest frame in bytes: an Ethernet header before the largest IP packet.
pub const MAX_FRAME_BYTES: usize = 14 + 65_535;

/// The result of [`FrameIo::fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Something came; more may be waiting in the kernel. It may have no whole frame.
    Data,
    /// Nothing is waiting.
    Empty,
    /// The other side has closed the channel.
    Closed,
}

/// A channel of Ethernet frames. No call blocks.
pub trait FrameIo: Send {
    /// The descriptor to poll, for reading always and for writing after an incomplete flush.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Reads once from the kernel. The frames of the read before are gone. A frame that is longer
    /// than [`MAX_FRAME_BYTES`] is skipped and counted in [`FrameIo::skipped`].
    ///
    /// # Errors
    /// The channel's; it cannot be used any more.
    fn fill(&mut self, input: &mut Input) -> io::Result<Fill>;

    /// Number of frames skipped so far because of their length.
    fn skipped(&self) -> u64;

    /// Bytes that wait to be sent.
    fn queued(&self) -> usize;

    /// Room for one frame of `len` bytes in the queue; none if the queue is full. The caller
    /// fills the whole of it, and [`FrameIo::flush`] sends it.
    fn queue(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Writes the queued frames. Returns whether the queue is empty now.
    ///
    /// # Errors
    /// The channel's; it cannot be used any more.
    fn flush(&mut self) -> io::Result<bool>;
}
