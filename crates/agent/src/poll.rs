//! The epoll set and the tokens that its events carry.

use std::os::fd::{AsFd, OwnedFd};

use cofferdam_proto::{Channel, FailureKind};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
};

use crate::failure::{OrFail, Result};

/// Events taken at a time; what is left is reported by the next wait.
const BATCH: usize = 64;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The host's port.
    Port,
    /// The nested set of process outputs.
    Outputs,
    /// A session's process ended.
    Exit(u32),
    /// A session's standard input can be written.
    Stdin(u32),
    /// A session's output can be read.
    Output(u32, Channel),
    /// An output that is read into nothing.
    Orphan(u32),
    /// A process that has lost its session ended.
    Stray(u32),
    /// A session that waited for its streams has waited long enough.
    StreamTimer,
    /// The kernel has killed a process for want of memory.
    OutOfMemory,
    /// It is time to look at a workload that is at its limit of memory.
    Thrash,
    /// A connection to a server was made, or failed.
    Connection(u32),
}

impl Token {
    const fn encode(self) -> EventData {
        let (kind, number) = match self {
            Self::Port => (0, 0),
            Self::Outputs => (1, 0),
            Self::Exit(session) => (2, session),
            Self::Stdin(session) => (3, session),
            Self::Output(session, Channel::Stderr) => (5, session),
            Self::Output(session, _) => (4, session),
            Self::Orphan(number) => (6, number),
            Self::Stray(number) => (7, number),
            Self::StreamTimer => (8, 0),
            Self::OutOfMemory => (9, 0),
            Self::Thrash => (10, 0),
            Self::Connection(number) => (11, number),
        };
        EventData::new_u64((kind << 32) | number as u64)
    }

    fn decode(data: EventData) -> Self {
        let [n0, n1, n2, n3, kind, ..] = data.u64().to_le_bytes();
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        match kind {
            0 => Self::Port,
            1 => Self::Outputs,
            2 => Self::Exit(number),
            3 => Self::Stdin(number),
            4 => Self::Output(number, Channel::Stdout),
            5 => Self::Output(number, Channel::Stderr),
            6 => Self::Orphan(number),
            7 => Self::Stray(number),
            8 => Self::StreamTimer,
            9 => Self::OutOfMemory,
            10 => Self::Thrash,
            _ => Self::Connection(number),
        }
    }
}

/// An epoll set.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// Makes an empty set.
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .or_fail(FailureKind::Internal, || "Could not make an epoll set")?;
        Ok(Self { epoll })
    }

    /// Adds `fd`; its events carry `token`.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, token.encode(), flags)
            .or_fail(FailureKind::Internal, || "Could not watch a descriptor")
    }

    /// Removes `fd`, which must be in the set.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        if let Err(error) = epoll::delete(&self.epoll, fd) {
            crate::log::error(&format!("Could not stop watching a descriptor: {error}"));
        }
    }

    /// Waits for events, or takes those there are when not `block`; appends them to `into`.
    pub(crate) fn wait(&self, block: bool, into: &mut Vec<(Token, EventFlags)>) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        let now = rustix::event::Timespec::default();
        let timeout = if block { None } else { Some(&now) };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(error).or_fail(FailureKind::Internal, || "Could not wait for events");
            }
        }
        into.extend(
            events
                .iter()
                .map(|event| (Token::decode(event.data), event.flags)),
        );
        Ok(())
    }
}

impl AsFd for Poll {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_its_encoding() {
        for token in [
            Token::Port,
            Token::Outputs,
            Token::Exit(7),
            Token::Stdin(u32::MAX),
            Token::Output(1, Channel::Stdout),
            Token::Output(u32::MAX, Channel::Stderr),
            Token::Orphan(3),
            Token::Stray(u32::MAX),
            Token::StreamTimer,
            Token::OutOfMemory,
            Token::Thrash,
            Token::Connection(9),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
