//! The guest's DNS connections: the stack's end of a socket pair, whose other end is the host's
//! side of a TCP flow. So the flow has its windows, ends and limits like any other.
//!
//! *Source:* RFC 1035, section 4.2.2; RFC 7766.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use super::question::MAX_QUERY_BYTES;

/// Queries of one connection that wait for an answer.
const MAX_PENDING: usize = 16;

/// Answers of one connection that wait for the guest, in bytes.
const MAX_OUTPUT_BYTES: usize = 128 << 10;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) fd: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Queries without an answer yet.
    pub(super) pending: usize,
    /// Whether the guest sends no more queries.
    ended: bool,
}

/// The result of one turn of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It goes on.
    Open,
    /// It is over.
    Closed,
}

impl Connection {
    /// A connection, and the end for the TCP flow.
    pub(super) fn new() -> Result<(Self, OwnedFd), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, flow) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let connection = Self {
            fd,
            input: Vec::new(),
            output: Vec::new(),
            pending: 0,
            ended: false,
        };
        Ok((connection, flow))
    }

    /// Reads, and hands each whole query to `take`.
    pub(super) fn turn(&mut self, mut take: impl FnMut(Vec<u8>)) -> Turn {
        loop {
            while self.pending < MAX_PENDING {
                let Some(query) = self.next_query() else {
                    break;
                };
                self.pending += 1;
                take(query);
            }
            if self.pending >= MAX_PENDING || self.ended || self.is_too_long() {
                break;
            }
            let mut chunk = [0; 2048];
            match recv(&self.fd, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.ended = true,
                Ok((_, count)) => self.input.extend(&chunk[..count]),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return Turn::Closed,
            }
        }
        self.write()
    }

    /// Queues an answer.
    pub(super) fn answer(&mut self, message: &[u8]) -> Turn {
        self.pending = self.pending.saturating_sub(1);
        let Ok(length) = u16::try_from(message.len()) else {
            return Turn::Closed;
        };
        self.output.extend(length.to_be_bytes());
        self.output.extend(message);
        if self.output.len() > MAX_OUTPUT_BYTES {
            return Turn::Closed;
        }
        self.write()
    }

    fn write(&mut self) -> Turn {
        while !self.output.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.fd, &self.output, flags) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Turn::Closed,
            }
        }
        let done = self.ended && self.pending == 0 && self.output.is_empty();
        if done || self.is_too_long() {
            Turn::Closed
        } else {
            Turn::Open
        }
    }

    fn length(&self) -> Option<usize> {
        let length = self.input.first_chunk::<2>()?;
        Some(usize::from(u16::from_be_bytes(*length)))
    }

    /// Whether the guest sends something that is no query.
    fn is_too_long(&self) -> bool {
        self.length().is_some_and(|length| length > MAX_QUERY_BYTES)
    }

    fn next_query(&mut self) -> Option<Vec<u8>> {
        let length = self.length()?;
        if self.is_too_long() || self.input.len() < 2 + length {
            return None;
        }
        let query = self.input.drain(..2 + length).skip(2).collect();
        Some(query)
    }
}
