//! How much of an output may be read, and when it is over. Pure: no descriptors.
//!
//! An output ends at the end of its pipe or, once its process has ended, when what was in the
//! pipe at that moment has been read: a grandchild that keeps the pipe open must not keep the
//! session open, and nothing that the process wrote may be lost.

use cofferdam_proto::{FrameError, HEADER_BYTES, Window};

/// Most bytes taken at a time: with its header one buffer of the kernel's console driver, which
/// takes 32 KiB at a time (drivers/char/virtio_console.c, `port_fops_write`).
pub(crate) const CHUNK_BYTES: usize = (32 << 10) - HEADER_BYTES;

/// What the bytes of a session go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    Pipe,
    /// It has no end of input; its master's closing would be a hang-up.
    Terminal,
    /// Both directions are one socket, so each is ended by shutdown(2).
    Socket,
}

impl Medium {
    /// That of a process.
    pub(crate) const fn of_process(has_terminal: bool) -> Self {
        if has_terminal {
            Self::Terminal
        } else {
            Self::Pipe
        }
    }
}

/// What to do with an output now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read at most this many bytes.
    Read(usize),
    /// Wait until the host gives credit.
    Wait,
    /// Nothing more will be sent.
    End,
}

/// The state of one output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    window: Window,
    /// After the process has ended: bytes that may still be its own.
    left: Option<usize>,
    ended: bool,
}

impl Flow {
    /// What to do now.
    pub(crate) fn next(&self) -> Next {
        match (self.ended, self.left, self.window.left()) {
            (true, _, _) | (_, Some(0), _) => Next::End,
            (false, _, 0) => Next::Wait,
            (false, left, window) => {
                Next::Read(CHUNK_BYTES.min(window).min(left.unwrap_or(usize::MAX)))
            }
        }
    }

    /// `bytes` were read and go to the host.
    ///
    /// # Errors
    /// When that is more than [`Self::next`] allowed.
    pub(crate) fn took(&mut self, bytes: usize) -> Result<(), FrameError> {
        self.window.spend(bytes)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes);
        }
        Ok(())
    }

    /// There is nothing to read now: the end, if the process has ended.
    pub(crate) fn found_empty(&mut self) {
        self.ended |= self.left.is_some();
    }

    /// The pipe has ended.
    pub(crate) fn found_end(&mut self) {
        self.ended = true;
    }

    /// The process has ended with `bytes` bytes unread.
    pub(crate) fn process_ended(&mut self, bytes: usize) {
        self.left = Some(bytes);
    }

    /// The host takes `bytes` more.
    ///
    /// # Errors
    /// When that is more than was sent.
    pub(crate) fn give(&mut self, bytes: u32) -> Result<(), FrameError> {
        self.window.give(bytes)
    }

    /// Another host reads from now on, with a window of its own.
    pub(crate) fn rewind(&mut self) {
        self.window = Window::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use cofferdam_proto::INITIAL_WINDOW_BYTES;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_window_waits_for_credit() {
        let mut flow = Flow::default();
        let mut sent = 0;
        while let Next::Read(bytes) = flow.next() {
            flow.took(bytes).unwrap();
            sent += bytes;
        }
        assert_eq!(sent, INITIAL_WINDOW_BYTES as usize);
        assert_eq!(flow.next(), Next::Wait);
        flow.give(5).unwrap();
        assert_eq!(flow.next(), Next::Read(5));
    }

    #[test]
    fn an_empty_pipe_is_the_end_only_of_an_ended_process() {
        let mut flow = Flow::default();
        flow.found_empty();
        assert_ne!(flow.next(), Next::End);
        flow.process_ended(100);
        assert_eq!(flow.next(), Next::Read(100));
        flow.found_empty();
        assert_eq!(flow.next(), Next::End);
    }

    #[test]
    fn the_end_needs_no_credit() {
        let mut flow = Flow::default();
        while let Next::Read(bytes) = flow.next() {
            flow.took(bytes).unwrap();
        }
        flow.process_ended(0);
        assert_eq!(flow.next(), Next::End);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Pump,
        Credit(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..100_000).prop_map(Step::Write),
            Just(Step::Pump),
            (0_u32..80_000).prop_map(Step::Credit),
        ]
    }

    /// One read of a pipe that holds `pipe` byte counts of one.
    fn pump(flow: &mut Flow, pipe: &mut usize, sent: &mut usize) -> Next {
        let next = flow.next();
        if let Next::Read(most) = next {
            match most.min(*pipe) {
                0 => flow.found_empty(),
                got => {
                    flow.took(got).unwrap();
                    *pipe -= got;
                    *sent += got;
                }
            }
        }
        next
    }

    proptest! {
        #[test]
        fn all_that_was_written_before_the_exit_is_sent_and_nothing_later(
            steps in proptest::collection::vec(step(), 0..60),
            grandchild in 0_usize..100_000,
        ) {
            let mut flow = Flow::default();
            let (mut pipe, mut written, mut sent, mut credited) = (0, 0, 0, 0);
            let mut queue: VecDeque<Step> = steps.into();
            while let Some(step) = queue.pop_front() {
                match step {
                    Step::Write(bytes) => { pipe += bytes; written += bytes; }
                    Step::Pump => { pump(&mut flow, &mut pipe, &mut sent); }
                    Step::Credit(bytes) => {
                        let owed = u32::try_from(sent - credited).unwrap().min(bytes);
                        flow.give(owed).unwrap();
                        credited += owed as usize;
                    }
                }
            }
            flow.process_ended(pipe);
            pipe += grandchild;
            loop {
                match pump(&mut flow, &mut pipe, &mut sent) {
                    Next::End => break,
                    Next::Read(_) => {}
                    Next::Wait => {
                        flow.give(u32::try_from(sent - credited).unwrap()).unwrap();
                        credited = sent;
                    }
                }
            }
            prop_assert_eq!(sent, written);
        }
    }
}
