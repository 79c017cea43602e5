//! Bytes on their way into a process.
//!
//! Holds at most one window: credit goes back to the host as the process takes bytes, so a process
//! that never reads stalls its own input and nothing else. Input for a process that has closed it
//! is thrown away with its credit given back, since the host cannot know.

use std::{collections::VecDeque, os::fd::OwnedFd};

use cofferdam_proto::{FrameError, Window};
use rustix::{
    event::epoll::EventFlags,
    io::{Errno, write},
    net::{Shutdown, shutdown},
};

use super::flow::Medium;
use crate::{
    failure::Result,
    log,
    poll::{Poll, Token},
};

/// A process's input.
#[derive(Debug)]
pub(super) struct Input {
    fd: Option<OwnedFd>,
    medium: Medium,
    window: Window,
    pending: VecDeque<u8>,
    /// Bytes at the front of `pending` that an earlier host sent: this one is owed no credit for
    /// them.
    foreign: usize,
    ends: bool,
    watched: bool,
    /// Whether bytes were lost because the other side takes no more.
    pub(super) failed: bool,
}

impl Input {
    pub(super) fn new(fd: Option<OwnedFd>, medium: Medium) -> Self {
        Self {
            fd,
            medium,
            window: Window::new(),
            pending: VecDeque::new(),
            foreign: 0,
            ends: false,
            watched: false,
            failed: false,
        }
    }

    /// Takes bytes from the host.
    ///
    /// # Errors
    /// When they are more than its window allows.
    pub(super) fn push(&mut self, bytes: &[u8], eof: bool) -> std::result::Result<(), FrameError> {
        self.window.spend(bytes.len())?;
        self.pending.extend(bytes);
        self.ends |= eof && self.medium != Medium::Terminal;
        Ok(())
    }

    /// Writes what the process takes now; returns the credit that this frees.
    pub(super) fn pump(&mut self, poll: &Poll, token: Token) -> Result<u32> {
        let before = self.pending.len();
        while let Some(fd) = &self.fd {
            let (bytes, _) = self.pending.as_slices();
            if bytes.is_empty() {
                break;
            }
            match write(fd, bytes) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    self.failed = true;
                    if !matches!(error, Errno::PIPE | Errno::IO | Errno::CONNRESET) {
                        log::error(&format!("Could not write to a process: {error}"));
                    }
                    self.close(poll);
                }
            }
        }
        if self.fd.is_none() {
            self.pending.clear();
        } else if self.pending.is_empty() && self.ends {
            self.close(poll);
        }
        self.watch(poll, token)?;
        let taken = before - self.pending.len();
        let foreign = taken.min(self.foreign);
        self.foreign -= foreign;
        let freed = u32::try_from(taken - foreign).unwrap_or(u32::MAX);
        // Never more than was spent: only pending bytes are freed.
        if let Err(error) = self.window.give(freed) {
            log::error(&format!("Input window is wrong: {error}"));
        }
        Ok(freed)
    }

    /// Ends the input; what is pending is lost.
    pub(super) fn close(&mut self, poll: &Poll) {
        let Some(fd) = self.fd.take() else { return };
        if std::mem::take(&mut self.watched) {
            poll.remove(&fd);
        }
        if self.medium == Medium::Socket {
            // Fails only if the other side has ended the connection.
            let _ = shutdown(&fd, Shutdown::Write);
        }
    }

    /// Forgets a connection whose socket is about to be closed.
    pub(super) fn discard(mut self, poll: &Poll) {
        if let Some(fd) = self.fd.take()
            && self.watched
        {
            poll.remove(&fd);
        }
    }

    /// Whether nothing can be written any more.
    pub(super) const fn is_closed(&self) -> bool {
        self.fd.is_none()
    }

    /// Another host writes from now on, with a window of its own. What has come this far is still
    /// the process's.
    pub(super) fn rewind(&mut self) {
        self.foreign = self.pending.len();
        self.window = Window::new();
    }

    /// Waits for the process only while there is something for it.
    fn watch(&mut self, poll: &Poll, token: Token) -> Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        match (self.pending.is_empty(), self.watched) {
            (false, false) => poll.add(fd, token, EventFlags::OUT)?,
            (true, true) => poll.remove(fd),
            _ => return Ok(()),
        }
        self.watched = !self.watched;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_proto::INITIAL_WINDOW_BYTES;
    use rustix::{
        io::read,
        pipe::{PipeFlags, pipe_with},
    };

    use super::*;

    #[test]
    fn an_earlier_hosts_bytes_arrive_and_give_no_credit() {
        let poll = Poll::new().unwrap();
        let (from, to) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(Some(to), Medium::Pipe);
        input.push(b"early ", false).unwrap();
        input.rewind();
        input.push(b"late", false).unwrap();
        assert_eq!(input.pump(&poll, Token::Stdin(1)).unwrap(), 4);
        let mut bytes = [0; 32];
        assert_eq!(read(&from, &mut bytes).unwrap(), 10);
        assert_eq!(&bytes[..10], b"early late");
        let window = INITIAL_WINDOW_BYTES as usize;
        assert!(input.push(&vec![0; window], false).is_ok());
    }
}
