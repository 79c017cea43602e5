//! Frames that were read and not handled yet.

use std::ops::Range;

/// Size of the buffer. A few frames of the largest size fit.
const BYTES: usize = 512 << 10;

/// A buffer of fixed size with whole frames, and the start of the one after them. The caller of
/// [`FrameIo::fill`](super::FrameIo::fill) owns it, so it can handle frames where they lie while it
/// queues others.
#[derive(Debug)]
pub struct Input {
    pub(super) bytes: Vec<u8>,
    /// Bytes that were read and belong to no whole frame yet.
    pub(super) rest: Range<usize>,
    /// The whole frames of the last read.
    pub(super) frames: Vec<Range<usize>>,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            bytes: vec![0; BYTES],
            rest: 0..0,
            frames: Vec::new(),
        }
    }
}

impl Input {
    /// The frames of the last read, in order, without a frame check sequence.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().map(|frame| &self.bytes[frame.clone()])
    }

    /// Moves the rest to the front and returns the room after it.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.frames.clear();
        let length = self.rest.len();
        if self.rest.start > 0 {
            // Part of a frame is left. It is small beside a read, so moving it is cheap.
            self.bytes.copy_within(self.rest.clone(), 0);
            self.rest = 0..length;
        }
        &mut self.bytes[length..]
    }
}
