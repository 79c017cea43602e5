//! Bytes on their way out of a process.

use std::os::fd::OwnedFd;

use cofferdam_proto::{Channel, FrameError};
use rustix::{
    event::epoll::EventFlags,
    io::{Errno, ioctl_fionread, read},
};

use super::flow::{CHUNK_BYTES, Flow, Medium, Next};
use crate::{
    failure::Result,
    log,
    poll::{Poll, Token},
    port::Port,
};

/// More than a terminal can hold unread: the kernel's limit is 640 KiB
/// (`TTYB_DEFAULT_MEM_LIMIT` of drivers/tty/tty_buffer.c) and a line discipline of 4 KiB.
const TERMINAL_BYTES: usize = 1 << 20;

/// What became of an output after some bytes were taken from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// There may be more at once.
    More,
    /// Nothing to read, or no credit.
    Idle,
    /// Over: the host was told.
    Ended,
}

/// An output of a process.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) channel: Channel,
    medium: Medium,
    flow: Flow,
    watched: bool,
    /// Whether nothing can be read from `fd` any more, by anybody.
    pub(super) exhausted: bool,
    /// Whether that is because a connection was reset.
    pub(super) reset: bool,
}

impl Output {
    pub(super) fn new(fd: OwnedFd, channel: Channel, medium: Medium) -> Self {
        Self {
            fd,
            channel,
            medium,
            flow: Flow::default(),
            watched: false,
            exhausted: false,
            reset: false,
        }
    }

    /// Takes one chunk from the process to the host.
    pub(super) fn pump(&mut self, session: u32, port: &mut Port) -> ReadOutcome {
        let most = match self.flow.next() {
            Next::End => {
                port.data(session, self.channel, &[], true);
                return ReadOutcome::Ended;
            }
            Next::Wait => return ReadOutcome::Idle,
            Next::Read(most) => most,
        };
        let mut chunk = [0; CHUNK_BYTES];
        match read(&self.fd, chunk.get_mut(..most).unwrap_or_default()) {
            // All sides of a terminal closed: its only end.
            Ok(0) | Err(Errno::IO) => {
                self.exhausted = true;
                self.flow.found_end();
            }
            Ok(count) => {
                port.data(
                    session,
                    self.channel,
                    chunk.get(..count).unwrap_or_default(),
                    false,
                );
                if let Err(error) = self.flow.took(count) {
                    log::error(&format!("Output window is wrong: {error}"));
                }
            }
            Err(Errno::AGAIN) => {
                self.flow.found_empty();
                if self.flow.next() != Next::End {
                    return ReadOutcome::Idle;
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                if self.medium == Medium::Socket {
                    self.reset = true;
                } else {
                    log::error(&format!("Could not read from a process: {error}"));
                }
                self.exhausted = true;
                self.flow.found_end();
            }
        }
        ReadOutcome::More
    }

    /// The process has ended: what it wrote is in the pipe now.
    pub(super) fn process_ended(&mut self) {
        let bytes = if self.medium == Medium::Terminal {
            // Its driver may still be moving bytes, which a count would miss and a read waits for.
            TERMINAL_BYTES
        } else {
            let unread = ioctl_fionread(&self.fd).unwrap_or_default();
            usize::try_from(unread).unwrap_or(usize::MAX)
        };
        self.flow.process_ended(bytes);
    }

    /// Credit from the host.
    pub(super) fn give(&mut self, bytes: u32) -> std::result::Result<(), FrameError> {
        self.flow.give(bytes)
    }

    /// Another host reads from now on.
    pub(super) fn rewind(&mut self) {
        self.flow.rewind();
    }

    /// Waits for bytes as long as they may be taken.
    pub(super) fn watch(&mut self, outputs: &Poll, session: u32) -> Result<()> {
        match (self.flow.next(), self.watched) {
            (Next::Read(_), false) => {
                outputs.add(
                    &self.fd,
                    Token::Output(session, self.channel),
                    EventFlags::IN,
                )?;
                self.watched = true;
            }
            (Next::Wait | Next::End, true) => self.unwatch(outputs),
            _ => {}
        }
        Ok(())
    }

    /// Waits no longer.
    pub(super) fn unwatch(&mut self, outputs: &Poll) {
        if std::mem::take(&mut self.watched) {
            outputs.remove(&self.fd);
        }
    }
}
