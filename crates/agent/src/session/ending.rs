//! The end of a session: its process has ended, and its output streams may still be open.
//!
//! A shell may leave children behind that write on (`exec > >(tee log)`, `server &`). So the
//! session of a process beside the workload lasts, once the process has ended, until its streams
//! are closed everywhere, but for [`GRACE`] at most. What is in a pipe when that time is over is
//! still sent. A process that is the first of its PID namespace has no child that outlives it.

use std::{collections::VecDeque, os::fd::OwnedFd, time::Duration};

use cofferdam_proto::{AgentMessage, FailureKind};
use rustix::{
    event::epoll::EventFlags,
    io::read,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
        clock_gettime, timerfd_create, timerfd_settime,
    },
};

use super::{
    Sessions, log_failure,
    output::{Output, ReadOutcome},
};
use crate::{
    failure::{OrFail, Result},
    log,
    poll::{Poll, Token},
    port::Port,
    process,
};

/// How long the children of a process that has ended may keep its session open: Docker's time.
/// Source: moby, daemon/monitor.go, the wait for an exec's streams.
const GRACE: Duration = Duration::from_secs(2);

/// When a session's streams end, once its process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// At once: no other process can have them open.
    EndWithProcess,
    /// When they are closed, or after [`GRACE`].
    WaitAWhile,
    /// When they are closed.
    WaitForAll,
}

/// The sessions that wait for their streams, the one that waits longest first.
#[derive(Debug)]
pub(super) struct StreamWaits {
    timer: OwnedFd,
    /// Each with the end of its time, on the monotonic clock.
    waiting: VecDeque<(u32, Timespec)>,
}

impl StreamWaits {
    pub(super) fn new(poll: &Poll) -> Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .or_fail(FailureKind::Internal, || "Could not make a timer")?;
        poll.add(&timer, Token::StreamTimer, EventFlags::IN)?;
        Ok(Self {
            timer,
            waiting: VecDeque::new(),
        })
    }

    /// Gives a session its time.
    fn add(&mut self, number: u32) -> Result<()> {
        let mut end = clock_gettime(ClockId::Monotonic);
        end.tv_sec += GRACE.as_secs().cast_signed();
        self.waiting.push_back((number, end));
        self.arm()
    }

    /// A session waits no longer.
    pub(super) fn forget(&mut self, number: u32) {
        self.waiting.retain(|(other, _)| *other != number);
    }

    /// The sessions that have waited long enough.
    fn take_due(&mut self) -> Result<Vec<u32>> {
        // Takes the event away; nothing to read is as good.
        let _ = read(&self.timer, &mut [0; 8]);
        let now = clock_gettime(ClockId::Monotonic);
        let mut due = Vec::new();
        while let Some((number, end)) = self.waiting.front()
            && *end <= now
        {
            due.push(*number);
            self.waiting.pop_front();
        }
        self.arm()?;
        Ok(due)
    }

    fn arm(&self) -> Result<()> {
        let Some((_, end)) = self.waiting.front() else {
            return Ok(());
        };
        let setting = Itimerspec {
            it_interval: Timespec::default(),
            it_value: *end,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting)
            .map(drop)
            .or_fail(FailureKind::Internal, || "Could not set a timer")
    }
}

impl Sessions {
    /// A session's process has ended.
    pub(super) fn process_ended(&mut self, number: u32, port: &mut Port) {
        let Some(session) = self.table.get_mut(&number) else {
            return;
        };
        self.poll.remove(&session.process.pidfd);
        let waits = session.streams != Streams::EndWithProcess && !session.outputs.is_empty();
        if waits {
            // Its number cannot be found any more once it has been waited for.
            session.leader = process::number(&session.process.pidfd);
        }
        let status = process::reap(&session.process.pidfd);
        session.exited = Some(status);
        if status == super::KILLED {
            // Before its exit, so that the host knows why.
            self.report_oom(port);
        }
        let Some(session) = self.table.get_mut(&number) else {
            return;
        };
        if session.streams != Streams::WaitForAll {
            session.input.close(&self.poll);
        }
        let timed = match session.streams {
            _ if !waits => return self.end_outputs(number),
            Streams::WaitForAll => Ok(()),
            _ => self.stream_waits.add(number),
        };
        if let Err(failure) = timed {
            log::error(&failure.message);
            self.end_outputs(number);
        }
    }

    /// Some have waited long enough for their streams.
    pub(super) fn grace_is_over(&mut self) {
        match self.stream_waits.take_due() {
            Ok(due) => due.into_iter().for_each(|number| self.end_outputs(number)),
            Err(failure) => log::error(&failure.message),
        }
    }

    /// Of a session whose process has ended, only what is in its pipes now is still sent.
    fn end_outputs(&mut self, number: u32) {
        if let Some(session) = self.table.get_mut(&number) {
            session.outputs.iter_mut().for_each(Output::process_ended);
            self.ending.insert(number);
        }
    }

    /// Ends a session whose process has ended and that has no output left.
    pub(super) fn end_if_silent(&mut self, number: u32) {
        let is_over =
            |session: &super::Session| session.exited.is_some() && session.outputs.is_empty();
        if self.table.get(&number).is_some_and(is_over) {
            self.stream_waits.forget(number);
            self.ending.insert(number);
        }
    }

    /// Sends what ended processes have left, and their statuses; `false` when the port has to take
    /// something first.
    pub(crate) fn pump_ending(&mut self, port: &mut Port) -> bool {
        for number in self.ending.clone() {
            let Some(session) = self.table.get_mut(&number) else {
                continue;
            };
            let mut rest = Vec::new();
            for mut output in std::mem::take(&mut session.outputs) {
                let last = loop {
                    if port.is_congested() {
                        break ReadOutcome::More;
                    }
                    match output.pump(number, port) {
                        ReadOutcome::More => {}
                        other => break other,
                    }
                };
                if last == ReadOutcome::Ended {
                    output.unwatch(&self.outputs);
                    if !output.exhausted {
                        self.orphans.take_output(&self.poll, output.fd);
                    }
                } else {
                    log_failure(output.watch(&self.outputs, number));
                    rest.push(output);
                }
            }
            session.outputs = rest;
            if session.outputs.is_empty()
                && let Some(status) = session.exited
            {
                session.input.close(&self.poll);
                port.send(number, &AgentMessage::Exited { status });
                self.table.remove(&number);
                self.ending.remove(&number);
            }
        }
        self.ending.is_empty() || !port.is_congested()
    }
}
