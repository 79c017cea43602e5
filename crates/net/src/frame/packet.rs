//! Frames over a socket that keeps the borders of messages: one message is one frame.
//!
//! It is for a machine in the same process or an own virtual machine monitor, where no length
//! has to be sent. *Source:* unix(7), `SOCK_SEQPACKET`.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use super::{Fill, FrameIo, Input, MAX_FRAME_BYTES};

/// Bound on what waits to be sent, in bytes of frames.
const OUT_BYTES: usize = 2 << 20;

/// Frames over a connected `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    skipped: u64,
    output: VecDeque<Vec<u8>>,
    queued: usize,
}

impl PacketSocket {
    /// Frames over `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            skipped: 0,
            output: VecDeque::new(),
            queued: 0,
        }
    }

    /// Two ends of one channel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::new(one), Self::new(other)))
    }
}

impl FrameIo for PacketSocket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn fill(&mut self, input: &mut Input) -> io::Result<Fill> {
        match recv(&self.fd, input.room(), RecvFlags::DONTWAIT) {
            // A message of no bytes cannot be told from the end; frames have at least a header.
            Ok((_, 0)) => Ok(Fill::Closed),
            Ok((_, count)) if count > MAX_FRAME_BYTES => {
                self.skipped += 1;
                Ok(Fill::Data)
            }
            Ok((_, count)) => {
                input.frames.push(0..count);
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
        self.queued
    }

    fn queue(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.queued + len > OUT_BYTES {
            return None;
        }
        self.queued += len;
        self.output.push_back(vec![0; len]);
        self.output.back_mut().map(Vec::as_mut_slice)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while let Some(frame) = self.output.front() {
            match send(&self.fd, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.queued -= frame.len();
                    self.output.pop_front();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_one_frame() {
        let (mut one, mut other) = PacketSocket::pair().unwrap();
        one.queue(3).unwrap().copy_from_slice(b"abc");
        one.queue(2).unwrap().copy_from_slice(b"de");
        assert_eq!(one.queued(), 5);
        assert!(one.flush().unwrap());
        let mut input = Input::default();
        for expected in [&b"abc"[..], b"de"] {
            assert_eq!(other.fill(&mut input).unwrap(), Fill::Data);
            assert_eq!(input.frames().collect::<Vec<_>>(), [expected]);
        }
        drop(one);
        assert_eq!(other.fill(&mut input).unwrap(), Fill::Closed);
    }

    #[test]
    fn a_reader_that_stops_bounds_the_queue() {
        let (mut one, _other) = PacketSocket::pair().unwrap();
        while one.queue(10_000).is_some() {
            one.flush().unwrap();
        }
        assert!(one.queued() <= OUT_BYTES);
    }
}
