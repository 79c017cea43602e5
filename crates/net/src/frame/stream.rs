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

use super::{Fill, FrameIo, MAX_FRAME_BYTES};

/// Bytes of the length before each frame.
const PREFIX_BYTES: usize = 4;

/// Size of the buffer of frames that were read. A few frames of the largest size fit.
const IN_BYTES: usize = 512 << 10;

/// Size of the buffer of frames that wait to be sent; the bound on what a guest that does not
/// read makes us keep.
const OUT_BYTES: usize = 2 << 20;

/// Frames over a connected stream socket.
#[derive(Debug)]
pub struct FrameStream {
    fd: OwnedFd,
    /// Read bytes are `input[read_start..read_end]`.
    input: Vec<u8>,
    read_start: usize,
    read_end: usize,
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
            input: vec![0; IN_BYTES],
            read_start: 0,
            read_end: 0,
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

    /// Throws away what is left of a frame of forbidden length, as far as it has come.
    fn discard(&mut self) {
        let gone = self.discard.min(self.read_end - self.read_start);
        self.read_start += gone;
        self.discard -= gone;
    }

    /// The length of the frame at `read_start`, if its prefix is there.
    fn length(&self) -> Option<usize> {
        let prefix = self.input[self.read_start..self.read_end].first_chunk::<PREFIX_BYTES>()?;
        usize::try_from(u32::from_be_bytes(*prefix)).ok()
    }
}

impl FrameIo for FrameStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn fill(&mut self) -> io::Result<Fill> {
        if self.read_start == self.read_end {
            (self.read_start, self.read_end) = (0, 0);
        } else if self.read_start > 0 {
            // Part of a frame is left. It is small beside a read, so moving it is cheap.
            self.input.copy_within(self.read_start..self.read_end, 0);
            self.read_end -= self.read_start;
            self.read_start = 0;
        }
        let room = &mut self.input[self.read_end..];
        match recv(&self.fd, room, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Ok(Fill::Closed),
            Ok((_, count)) => {
                self.read_end += count;
                Ok(Fill::Data)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Fill::Empty),
            Err(Errno::CONNRESET) => Ok(Fill::Closed),
            Err(error) => Err(error.into()),
        }
    }

    fn next(&mut self) -> Option<&mut [u8]> {
        loop {
            self.discard();
            let length = self.length()?;
            if length > MAX_FRAME_BYTES {
                self.read_start += PREFIX_BYTES;
                self.discard = length;
                self.skipped += 1;
                continue;
            }
            let start = self.read_start + PREFIX_BYTES;
            if self.read_end < start + length {
                return None;
            }
            self.read_start = start + length;
            return Some(&mut self.input[start..start + length]);
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

    #[test]
    fn frames_arrive_whole_and_in_order() {
        let (mut one, mut other) = FrameStream::pair().unwrap();
        put(&mut one, b"first");
        put(&mut one, b"");
        put(&mut one, &[7; 60_000]);
        assert!(one.flush().unwrap());
        assert_eq!(other.fill().unwrap(), Fill::Data);
        assert_eq!(other.next().unwrap(), b"first");
        assert_eq!(other.next().unwrap(), b"");
        assert_eq!(other.next().unwrap(), [7; 60_000]);
        assert!(other.next().is_none());
        assert_eq!(other.fill().unwrap(), Fill::Empty);
        drop(one);
        assert_eq!(other.fill().unwrap(), Fill::Closed);
    }

    #[test]
    fn a_frame_in_pieces_waits_for_its_last_byte() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let mut io = FrameStream::new(reader).unwrap();
        let bytes = [0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 1, b'd'];
        for byte in &bytes[..6] {
            writer.write_all(&[*byte]).unwrap();
            assert_eq!(io.fill().unwrap(), Fill::Data);
            assert!(io.next().is_none());
        }
        writer.write_all(&bytes[6..]).unwrap();
        io.fill().unwrap();
        assert_eq!(io.next().unwrap(), b"abc");
        assert_eq!(io.next().unwrap(), b"d");
    }

    #[test]
    fn a_frame_that_is_too_long_is_skipped_and_the_next_one_is_read() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let mut io = FrameStream::new(reader).unwrap();
        let length = MAX_FRAME_BYTES + 1;
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.resize(PREFIX_BYTES + length, 9);
        bytes.extend([0, 0, 0, 2, 1, 2]);
        writer.write_all(&bytes).unwrap();
        loop {
            assert_eq!(io.fill().unwrap(), Fill::Data);
            if let Some(frame) = io.next() {
                assert_eq!(frame, [1, 2]);
                break;
            }
        }
        assert_eq!(io.skipped(), 1);
    }

    #[test]
    fn a_reader_that_stops_bounds_the_queue() {
        let (mut one, mut other) = FrameStream::pair().unwrap();
        let mut sent = 0;
        while let Some(room) = one.queue(1000) {
            room.fill(u8::try_from(sent % 251).unwrap());
            sent += 1;
            one.flush().unwrap();
        }
        assert!(one.queued() <= OUT_BYTES);
        let mut received = 0;
        while received < sent {
            if other.fill().unwrap() == Fill::Empty {
                one.flush().unwrap();
            }
            while let Some(frame) = other.next() {
                assert_eq!(frame, [u8::try_from(received % 251).unwrap(); 1000]);
                received += 1;
            }
        }
    }
}
