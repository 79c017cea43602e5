//! Frames: the header, the incremental decoder and the encoders.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

/// `len (le32) + stream (le32) + kind + channel + flags + zero`.
pub const HEADER_BYTES: usize = 12;

/// Largest payload of a frame in bytes. Control messages are small; data is cut to
/// [`MAX_DATA_BYTES`]. A longer length is a fault of the sender, found before anything is stored.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Largest payload of a data frame that the encoders of this project make, in bytes. Large enough
/// to amortise the header, small enough that control frames never wait long. A longer one is refused.
pub const MAX_DATA_BYTES: usize = 64 << 10;

/// The stream of messages that belong to no session.
pub const CONTROL_STREAM: u32 = 0;

/// Nothing follows on this channel of this stream.
pub const FLAG_EOF: u8 = 1;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// One postcard-encoded message.
    Control = 1,
    /// Raw bytes of a channel.
    Data = 2,
    /// A `u32 LE` of bytes that the receiver may send more on a channel.
    Credit = 3,
}

/// A byte stream within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Channel {
    /// To the process.
    Stdin = 0,
    /// From the process; with a terminal, all of its output.
    Stdout = 1,
    /// From the process.
    Stderr = 2,
}

/// One decoded frame; the payload borrows the decoder's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// Session, or [`CONTROL_STREAM`].
    pub stream: u32,
    /// Channel of data and credit frames.
    pub channel: Channel,
    /// Whether this is the channel's last data frame.
    pub eof: bool,
    /// The payload.
    pub payload: &'a [u8],
}

/// The other side broke the protocol; the connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The header announces more than its kind may have.
    TooLong {
        /// Announced length in bytes.
        len: u32,
    },
    /// The header's kind is none of [`FrameKind`].
    UnknownKind(u8),
    /// The header's channel is none of [`Channel`].
    UnknownChannel(u8),
    /// A flag or the zero byte is set that this generation does not know.
    UnknownFlags(u8),
    /// The payload of a control frame is no such message.
    BadMessage,
    /// The payload of a credit frame is not four bytes, or gives nothing.
    BadCredit,
    /// A data frame has no bytes and does not end its channel.
    Empty,
    /// Something came on a channel behind its end.
    AfterEnd,
    /// A message came at a time when it cannot be true.
    OutOfOrder,
    /// More was sent, or more credit given, than the window allows.
    WindowExceeded,
}

impl Frame<'_> {
    /// The credit that a credit frame gives, in bytes.
    ///
    /// # Errors
    /// [`FrameError::BadCredit`] when the payload is not four bytes, or gives nothing.
    pub fn credit(&self) -> Result<u32, FrameError> {
        let bytes = self.payload.try_into().map(u32::from_le_bytes);
        bytes
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or(FrameError::BadCredit)
    }
}

/// Cuts a byte stream into frames. Holds at most one frame and what was read behind it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    control_limit: Option<usize>,
}

impl Decoder {
    /// Makes an empty decoder.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            control_limit: None,
        }
    }

    /// Refuses control messages of more than `bytes` bytes, for a peer that needs no longer ones.
    #[must_use]
    pub const fn with_control_limit(mut self, bytes: usize) -> Self {
        self.control_limit = Some(bytes);
        self
    }

    /// The longest payload of a kind, in bytes.
    fn limit(&self, kind: FrameKind) -> usize {
        match kind {
            FrameKind::Control => self.control_limit.unwrap_or(MAX_PAYLOAD_BYTES),
            FrameKind::Data => MAX_DATA_BYTES,
            FrameKind::Credit => size_of::<u32>(),
        }
    }

    /// Appends bytes that were received.
    pub fn push(&mut self, bytes: &[u8]) {
        // Keeps the buffer as small as what is not yet decoded: consumed bytes go first.
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// When the bytes break the protocol; the decoder must not be used again.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, channel, flags, zero] = *header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let kind = FrameKind::from_wire(kind)?;
        if size > self.limit(kind) {
            return Err(FrameError::TooLong { len });
        }
        let channel = Channel::from_wire(channel)?;
        if flags & !FLAG_EOF != 0 || zero != 0 {
            return Err(FrameError::UnknownFlags(flags));
        }
        // Frames that cost their sender nothing are not taken.
        if kind == FrameKind::Data && size == 0 && flags & FLAG_EOF == 0 {
            return Err(FrameError::Empty);
        }
        if body.len() < size {
            return Ok(None);
        }
        let payload_start = self.start + HEADER_BYTES;
        self.start = payload_start + size;
        Ok(Some(Frame {
            kind,
            stream: u32::from_le_bytes([s0, s1, s2, s3]),
            channel,
            eof: flags & FLAG_EOF != 0,
            payload: &self.buffer[payload_start..self.start],
        }))
    }
}

/// Decodes the message of a control frame.
///
/// # Errors
/// [`FrameError::BadMessage`] when the payload is no `T`, or has bytes left over.
pub fn decode_control<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::BadMessage),
    }
}

/// Appends a control frame to `out`. A message longer than [`MAX_PAYLOAD_BYTES`] is refused.
///
/// # Errors
/// [`FrameError::TooLong`], [`FrameError::BadMessage`]; `out` is as before.
pub fn encode_control<T: Serialize>(
    stream: u32,
    message: &T,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let payload = postcard::to_stdvec(message).map_err(|_| FrameError::BadMessage)?;
    match u32::try_from(payload.len()) {
        Ok(len) if payload.len() <= MAX_PAYLOAD_BYTES => {
            out.extend_from_slice(&header(len, stream, FrameKind::Control, Channel::Stdin, 0));
            out.extend_from_slice(&payload);
            Ok(())
        }
        other => Err(FrameError::TooLong {
            len: other.unwrap_or(u32::MAX),
        }),
    }
}

/// Appends data frames of at most [`MAX_DATA_BYTES`] each to `out`; `eof` marks the last one.
/// Nothing is appended for no bytes and no `eof`.
pub fn encode_data(stream: u32, channel: Channel, bytes: &[u8], eof: bool, out: &mut Vec<u8>) {
    let mut rest = bytes;
    loop {
        let (chunk, tail) = rest.split_at(rest.len().min(MAX_DATA_BYTES));
        let flags = if eof && tail.is_empty() { FLAG_EOF } else { 0 };
        if chunk.is_empty() && flags == 0 {
            return;
        }
        // A chunk is at most 64 KiB, so its length fits.
        let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&header(len, stream, FrameKind::Data, channel, flags));
        out.extend_from_slice(chunk);
        if tail.is_empty() {
            return;
        }
        rest = tail;
    }
}

/// Appends a credit frame for `bytes` bytes to `out`.
pub fn encode_credit(stream: u32, channel: Channel, bytes: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&header(4, stream, FrameKind::Credit, channel, 0));
    out.extend_from_slice(&bytes.to_le_bytes());
}

fn header(
    len: u32,
    stream: u32,
    kind: FrameKind,
    channel: Channel,
    flags: u8,
) -> [u8; HEADER_BYTES] {
    let [l0, l1, l2, l3] = len.to_le_bytes();
    let [s0, s1, s2, s3] = stream.to_le_bytes();
    [
        l0,
        l1,
        l2,
        l3,
        s0,
        s1,
        s2,
        s3,
        kind as u8,
        channel as u8,
        flags,
        0,
    ]
}

impl FrameKind {
    const fn from_wire(byte: u8) -> Result<Self, FrameError> {
        match byte {
            1 => Ok(Self::Control),
            2 => Ok(Self::Data),
            3 => Ok(Self::Credit),
            other => Err(FrameError::UnknownKind(other)),
        }
    }
}

impl Channel {
    const fn from_wire(byte: u8) -> Result<Self, FrameError> {
        match byte {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            other => Err(FrameError::UnknownChannel(other)),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => write!(f, "Frame of {len} bytes is longer than allowed"),
            Self::UnknownKind(kind) => write!(f, "Frame has unknown kind {kind}"),
            Self::UnknownChannel(channel) => write!(f, "Frame has unknown channel {channel}"),
            Self::UnknownFlags(flags) => write!(f, "Frame has unknown flags {flags:#x}"),
            Self::BadMessage => f.write_str("Control frame holds no known message"),
            Self::BadCredit => f.write_str("Credit frame is not four bytes long, or gives nothing"),
            Self::Empty => f.write_str("Data frame has no bytes and no end"),
            Self::OutOfOrder => f.write_str("Message came out of order"),
            Self::AfterEnd => f.write_str("Frame came behind the end of its channel"),
            Self::WindowExceeded => f.write_str("Other side exceeded its window"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_frames(decoder: &mut Decoder) -> Vec<(u32, Channel, bool, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            frames.push((
                frame.stream,
                frame.channel,
                frame.eof,
                frame.payload.to_vec(),
            ));
        }
        frames
    }

    #[test]
    fn long_data_is_cut_and_only_the_last_frame_is_the_end() {
        let bytes = vec![7; MAX_DATA_BYTES + 1];
        let mut wire = Vec::new();
        encode_data(3, Channel::Stderr, &bytes, true, &mut wire);
        let mut decoder = Decoder::new();
        decoder.push(&wire);
        let frames = all_frames(&mut decoder);
        assert_eq!(frames.len(), 2);
        assert!(!frames[0].2 && frames[1].2);
        assert_eq!(frames[0].3.len() + frames[1].3.len(), bytes.len());
    }

    #[test]
    fn an_empty_end_is_one_frame_and_nothing_is_none() {
        let mut wire = Vec::new();
        encode_data(1, Channel::Stdin, &[], false, &mut wire);
        assert!(wire.is_empty());
        encode_data(1, Channel::Stdin, &[], true, &mut wire);
        assert_eq!(wire.len(), HEADER_BYTES);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_from_the_header_alone() {
        let mut decoder = Decoder::new();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::TooLong { len: u32::MAX })
        );
    }

    #[test]
    fn unknown_kinds_channels_and_flags_are_refused() {
        let header =
            |kind, channel, flags, zero| [0, 0, 0, 0, 0, 0, 0, 0, kind, channel, flags, zero];
        for (bytes, error) in [
            (header(9, 0, 0, 0), FrameError::UnknownKind(9)),
            (header(1, 3, 0, 0), FrameError::UnknownChannel(3)),
            (header(1, 0, 2, 0), FrameError::UnknownFlags(2)),
            (header(1, 0, 0, 1), FrameError::UnknownFlags(0)),
        ] {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            assert_eq!(decoder.next_frame(), Err(error));
        }
    }

    #[test]
    fn a_message_with_bytes_left_over_is_refused() {
        let mut wire = Vec::new();
        encode_control(0, &7_u32, &mut wire).unwrap();
        assert_eq!(decode_control::<u32>(&wire[HEADER_BYTES..]), Ok(7));
        wire.push(0);
        assert_eq!(
            decode_control::<u32>(&wire[HEADER_BYTES..]),
            Err(FrameError::BadMessage)
        );
    }

    #[test]
    fn an_oversized_message_leaves_the_buffer_as_it_was() {
        let mut wire = vec![1, 2, 3];
        let message = vec![0_u8; MAX_PAYLOAD_BYTES + 1];
        assert!(encode_control(0, &message, &mut wire).is_err());
        assert_eq!(wire, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn any_fragmentation_yields_the_same_frames(
            parts in proptest::collection::vec((any::<u32>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300)), 1..8),
            cuts in proptest::collection::vec(1_usize..50, 1..40),
        ) {
            let mut wire = Vec::new();
            for (stream, eof, bytes) in &parts {
                encode_data(*stream, Channel::Stdout, bytes, *eof, &mut wire);
            }
            let mut whole = Decoder::new();
            whole.push(&wire);
            let expected = all_frames(&mut whole);
            let mut decoder = Decoder::new();
            let mut got = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.push(head);
                got.extend(all_frames(&mut decoder));
                rest = tail;
            }
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.next_frame() {
                let _ = frame.credit();
                let _ = decode_control::<crate::AgentMessage>(frame.payload);
                let _ = decode_control::<crate::HostMessage>(frame.payload);
            }
        }
    }
}
