//! Frames over a byte stream, in the framing of QEMU's `-netdev stream`.
//!
//! Layout: `[length: u32 BE][frame]`, again and again. *Source:* QEMU, net/stream.c and the
//! socket read state of net/net.c; qemu(1), `-netdev stream`.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{Fill, FrameIo, Input, MAX_FRAME_BYTES};

/// Bytes of the length before each frame.
const PREFIX_BYTES: usize = 4;

/// Size of the buffer of frames that wait to be sent; the bound on what a guest that does not
/// read makes us keep.
const OUT_BYTES: usize = 2 << 20;

/// Frames over a connected stream socket.
#[derive(Debug)]
pub struct FrameStream {
    fd: OwnedFd,
    /// Bytes of a frame of forbidden length that are still to be thrown away.
    discard: usize,
    skipped: u64,
    /// Queued bytes are `output[write_start..write_end]`.
    output: Vec<u8>,
    write_start: usize,
    write_end: usize,
}

impl FrameStream {
    /// Frames over `socket`, which becomes non-blocking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            fd: socket.into(),
            discard: 0,
            skipped: 0,
            output: vec![0; OUT_BYTES],
            write_start: 0,
            write_end: 0,
        })
    }

    /// Two ends of one channel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self::new(one)?, Self::new(other)?))
    }

    /// Finds the whole frames in the bytes that were read.
    fn split(&mut self, input: &mut Input) {
        loop {
            let gone = self.discard.min(input.rest.len());
            input.rest.start += gone;
            self.discard -= gone;
            let read = &input.bytes[input.rest.clone()];
            let Some(prefix) = read.first_chunk::<PREFIX_BYTES>() else {
                return;
            };
            let Ok(length) = usize::try_from(u32::from_be_bytes(*prefix)) else {
                return;
            };
            if length > MAX_FRAME_BYTES {
                input.rest.start += PREFIX_BYTES;
                self.discard = length;
                self.skipped += 1;
                continue;
            }
            let start = input.rest.start + PREFIX_BYTES;
            if input.rest.end < start + length {
                return;
            }
            input.frames.push(start..start + length);
            input.rest.start = start + length;
        }
    }
}

impl FrameIo for FrameStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn fill(&mut self, input: &mut Input) -> io::Result<Fill> {
        match recv(&self.fd, input.room(), RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(Fill::Closed),
            Ok((_, count)) => {
                input.rest.end += count;
                self.split(input);
                Ok(Fill::Data)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Fill::Empty),
            Err(Errno::CONNRESET) => Ok(Fill::Closed),
            Err(error) => Err(error.into()),
        }
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }

    fn queued(&self) -> usize {
        self.write_end - self.write_start
    }

    fn queue(&mut self, len: usize) -> Option<&mut [u8]> {
        let prefix = u32::try_from(len).ok()?.to_be_bytes();
        let needed = PREFIX_BYTES + len;
        if self.output.len() - self.write_end < needed {
            if self.output.len() - self.queued() < needed {
                return None;
            }
            let waiting = self.write_start..self.write_end;
            self.write_end = waiting.len();
            self.output.copy_within(waiting, 0);
            self.write_start = 0;
        }
        let start = self.write_end;
        self.write_end += needed;
        self.output[start..start + PREFIX_BYTES].copy_from_slice(&prefix);
        Some(&mut self.output[start + PREFIX_BYTES..self.write_end])
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.write_start < self.write_end {
            let waiting = &self.output[self.write_start..self.write_end];
            match send(&self.fd, waiting, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.write_start += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        (self.write_start, self.write_end) = (0, 0);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn put(io: &mut impl FrameIo, frame: &[u8]) {
        io.queue(frame.len()).unwrap().copy_from_slice(frame);
    }

    /// The frames of one read.
    fn take(io: &mut impl FrameIo, input: &mut Input) -> Vec<Vec<u8>> {
        assert_eq!(io.fill(input).unwrap(), Fill::Data);
        input.frames().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn frames_arrive_whole_and_in_order() {
        let (mut one, mut other) = FrameStream::pair().unwrap();
        let mut input = Input::default();
        put(&mut one, b"first");
        put(&mut one, b"");
        put(&mut one, &[7; 60_000]);
        assert!(one.flush().unwrap());
        let frames = take(&mut other, &mut input);
        assert_eq!(frames, [b"first".to_vec(), Vec::new(), vec![7; 60_000]]);
        assert_eq!(other.fill(&mut input).unwrap(), Fill::Empty);
        assert_eq!(input.frames().count(), 0);
        drop(one);
        assert_eq!(other.fill(&mut input).unwrap(), Fill::Closed);
    }

    #[test]
    fn a_frame_in_pieces_waits_for_its_last_byte() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let mut io = FrameStream::new(reader).unwrap();
        let mut input = Input::default();
        let bytes = [0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 1, b'd'];
        for byte in &bytes[..6] {
            writer.write_all(&[*byte]).unwrap();
            assert!(take(&mut io, &mut input).is_empty());
        }
        writer.write_all(&bytes[6..]).unwrap();
        assert_eq!(take(&mut io, &mut input), [b"abc".to_vec(), b"d".to_vec()]);
    }

    #[test]
    fn a_frame_that_is_too_long_is_skipped_and_the_next_one_is_read() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let mut io = FrameStream::new(reader).unwrap();
        let mut input = Input::default();
        let length = MAX_FRAME_BYTES + 1;
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.resize(PREFIX_BYTES + length, 9);
        bytes.extend([0, 0, 0, 2, 1, 2]);
        writer.write_all(&bytes).unwrap();
        let mut frames = Vec::new();
        while frames.is_empty() {
            frames = take(&mut io, &mut input);
        }
        assert_eq!(frames, [[1, 2]]);
        assert_eq!(io.skipped(), 1);
    }

    #[test]
    fn a_reader_that_stops_bounds_the_queue() {
        let (mut one, mut other) = FrameStream::pair().unwrap();
        let mut input = Input::default();
        let mut sent = 0;
        while let Some(room) = one.queue(1000) {
            room.fill(u8::try_from(sent % 251).unwrap());
            sent += 1;
            one.flush().unwrap();
        }
        assert!(one.queued() <= OUT_BYTES);
        let mut received = 0;
        while received < sent {
            if other.fill(&mut input).unwrap() == Fill::Empty {
                one.flush().unwrap();
            }
            for frame in input.frames() {
                assert_eq!(frame, [u8::try_from(received % 251).unwrap(); 1000]);
                received += 1;
            }
        }
    }
}
