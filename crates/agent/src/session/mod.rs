//! Sessions: the workload and the execs, from their start to their exit status.
//!
//! Invariants: a session's messages leave in the order `Started`, data, end of each output,
//! `Exited`; nobody's slow reading or refusal to read holds up another session; memory per
//! session is one window.

mod attempt;
mod ending;
mod flow;
mod input;
mod orphans;
mod output;
mod pump;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use cofferdam_proto::{AgentMessage, CONTROL_STREAM, Channel, FrameError, TerminalSize};
use cofferdam_types::ExitStatus;
use rustix::{event::epoll::EventFlags, process::Pid};

pub(crate) use self::{
    attempt::{Attempt, refused},
    ending::Streams,
};
use self::{
    ending::StreamWaits, flow::Medium, input::Input, orphans::Orphans, output::Output,
    streams::GuestStream,
};
use crate::{
    cgroup::{OomWatch, ThrashWatch},
    failure::{OrFail, Result},
    log,
    poll::{Poll, Token},
    port::Port,
    process::{self, Process, Stdio},
};

/// Most sessions at a time, and most outputs of ended ones that are still read.
pub(crate) const MAX_SESSIONS: usize = 1024;

/// How a process ends that the kernel kills because memory ran out.
const KILLED: ExitStatus = ExitStatus::Signal(9);

#[derive(Debug)]
struct Session {
    process: Process,
    input: Input,
    outputs: Vec<Output>,
    /// The terminal, for its size.
    terminal: Option<OwnedFd>,
    exited: Option<ExitStatus>,
    /// How long it lasts after that.
    streams: Streams,
    /// Number of its process in the agent's PID namespace, once it has ended and is waited for no
    /// longer.
    leader: Option<Pid>,
}

/// All sessions, and what their processes left running.
#[derive(Debug)]
pub(crate) struct Sessions {
    poll: Poll,
    /// Outputs only, apart so that all of them can wait for the port.
    outputs: Poll,
    outputs_held: bool,
    table: BTreeMap<u32, Session>,
    /// Byte streams to servers; their numbers are those of no session.
    streams: BTreeMap<u32, GuestStream>,
    /// Sessions whose process has ended and whose output is not all sent.
    ending: BTreeSet<u32>,
    /// Sessions whose process has ended and whose streams others may still have open.
    stream_waits: StreamWaits,
    orphans: Orphans,
    oom: OomWatch,
    thrash: ThrashWatch,
    /// Whether nothing is taken from processes or given to them.
    held: bool,
}

type Checked = std::result::Result<(), FrameError>;

impl Sessions {
    pub(crate) fn new(poll: Poll) -> Result<Self> {
        let outputs = Poll::new()?;
        poll.add(&outputs, Token::Outputs, EventFlags::IN)?;
        let stream_waits = StreamWaits::new(&poll)?;
        Ok(Self {
            oom: OomWatch::new(&poll)?,
            thrash: ThrashWatch::new(&poll)?,
            poll,
            outputs,
            outputs_held: false,
            table: BTreeMap::new(),
            streams: BTreeMap::new(),
            ending: BTreeSet::new(),
            stream_waits,
            orphans: Orphans::default(),
            held: false,
        })
    }

    /// Whether `number` is in use.
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.table.contains_key(&number) || self.streams.contains_key(&number)
    }

    /// Sessions that are not over, and processes that have none.
    pub(crate) fn len(&self) -> usize {
        self.table.len() + self.orphans.processes()
    }

    /// Adds a started process and says so.
    pub(crate) fn add(
        &mut self,
        number: u32,
        process: Process,
        stdio: Stdio,
        streams: Streams,
        port: &mut Port,
    ) -> Result<()> {
        let kind = cofferdam_proto::FailureKind::Internal;
        let copy = |fd: &OwnedFd| fd.try_clone().or_fail(kind, || "Could not copy a terminal");
        let (input, terminal) = match stdio.outputs.first() {
            Some((_, master)) if stdio.terminal => (Some(copy(master)?), Some(copy(master)?)),
            _ => (stdio.stdin, None),
        };
        let medium = Medium::of_process(stdio.terminal);
        let mut outputs: Vec<Output> = stdio
            .outputs
            .into_iter()
            .map(|(channel, fd)| Output::new(fd, channel, medium))
            .collect();
        self.poll
            .add(&process.pidfd, Token::Exit(number), EventFlags::IN)?;
        for output in &mut outputs {
            output.watch(&self.outputs, number)?;
        }
        port.send(number, &AgentMessage::Started { pid: process.pid });
        let input = Input::new(input, medium);
        let session = Session {
            process,
            input,
            outputs,
            terminal,
            exited: None,
            streams,
            leader: None,
        };
        self.table.insert(number, session);
        Ok(())
    }

    /// Waits for the end of a process that is of no session.
    pub(crate) fn take_process(&mut self, pidfd: OwnedFd) {
        if let Err(failure) = self.orphans.take_process(&self.poll, pidfd) {
            log::error(&failure.message);
        }
    }

    /// Input from the host. One for a session that is over crossed its end and is dropped.
    pub(crate) fn data(
        &mut self,
        number: u32,
        bytes: &[u8],
        eof: bool,
        port: &mut Port,
    ) -> Checked {
        if let Some(session) = self.table.get_mut(&number) {
            session.input.push(bytes, eof)?;
            self.pump_input(number, port);
            return Ok(());
        }
        self.stream_data(number, bytes, eof, port)
    }

    /// Credit from the host.
    pub(crate) fn credit(&mut self, number: u32, channel: Channel, bytes: u32) -> Checked {
        let Some(session) = self.table.get_mut(&number) else {
            return self.stream_credit(number, channel, bytes);
        };
        for output in session
            .outputs
            .iter_mut()
            .filter(|output| output.channel == channel)
        {
            output.give(bytes)?;
            log_failure(output.watch(&self.outputs, number));
        }
        Ok(())
    }

    /// Sends a signal to a session's process.
    pub(crate) fn signal(&self, number: u32, signal: u8) {
        if let Some(session) = self.table.get(&number)
            && session.exited.is_none()
        {
            process::signal(&session.process.pidfd, signal);
        }
    }

    /// Sends a signal to a session's process and to all that are in its POSIX session.
    pub(crate) fn signal_all(&self, number: u32, signal: u8) {
        if let Some(session) = self.table.get(&number)
            && let Some(leader) = session
                .leader
                .or_else(|| process::number(&session.process.pidfd))
        {
            process::signal_session(leader, signal);
        }
    }

    /// Resizes a session's terminal.
    pub(crate) fn resize(&self, number: u32, size: TerminalSize) {
        let terminal = self
            .table
            .get(&number)
            .and_then(|session| session.terminal.as_ref());
        if let Some(Err(error)) = terminal.map(|terminal| process::resize(terminal, size)) {
            log::error(&format!("Could not resize a terminal: {error}"));
        }
    }

    /// Nobody reads this session any more.
    pub(crate) fn detach(&mut self, number: u32) {
        let Some(session) = self.table.get_mut(&number) else {
            self.close_stream(number);
            return;
        };
        session.input.close(&self.poll);
        for mut output in std::mem::take(&mut session.outputs) {
            output.unwatch(&self.outputs);
            self.orphans.take_output(&self.poll, output.fd);
        }
        self.end_if_silent(number);
    }

    /// The process of a session that is not over.
    pub(crate) fn process(&self, number: u32) -> Option<&OwnedFd> {
        self.table
            .get(&number)
            .map(|session| &session.process.pidfd)
    }

    /// Takes nothing from processes and gives them nothing, until [`Self::release`].
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// Goes on after [`Self::hold`].
    pub(crate) fn release(&mut self, port: &mut Port) {
        self.held = false;
        let numbers: Vec<u32> = self.table.keys().copied().collect();
        for number in numbers {
            self.pump_input(number, port);
        }
        let streams: Vec<u32> = self.streams.keys().copied().collect();
        for number in streams {
            self.pump_stream_input(number, port);
        }
    }

    /// Another host has taken over and knows of `heir` only: all other sessions are over for it,
    /// their processes go on unread.
    pub(crate) fn inherit(&mut self, heir: Option<u32>) -> Result<()> {
        let others: Vec<u32> = self.table.keys().copied().collect();
        for number in others.into_iter().filter(|number| Some(*number) != heir) {
            self.detach(number);
            self.ending.remove(&number);
            self.stream_waits.forget(number);
            let lost = self.table.remove(&number);
            if let Some(session) = lost.filter(|session| session.exited.is_none()) {
                let pidfd = session.process.pidfd;
                self.poll.remove(&pidfd);
                self.orphans.take_process(&self.poll, pidfd)?;
            }
        }
        Ok(())
    }

    /// Another host is there: windows are fresh, output under way to the last one is lost, and so
    /// are its byte streams.
    pub(crate) fn rewind(&mut self) {
        self.close_streams();
        for (number, session) in &mut self.table {
            session.input.rewind();
            for output in &mut session.outputs {
                output.rewind();
                log_failure(output.watch(&self.outputs, *number));
            }
        }
    }

    /// Waits for events, or takes those that there are when not `block`. Works off all but the
    /// port's, which it returns.
    pub(crate) fn wait(
        &mut self,
        block: bool,
        port: &mut Port,
        ended: &mut Vec<u32>,
    ) -> Result<Option<EventFlags>> {
        self.hold_outputs(port.is_congested())?;
        let mut events = Vec::new();
        self.poll.wait(block, &mut events)?;
        let mut of_port = None;
        for (token, flags) in events {
            match token {
                Token::Port => of_port = Some(flags),
                Token::Outputs => self.pump_outputs(port)?,
                Token::Exit(number) => {
                    self.process_ended(number, port);
                    ended.push(number);
                }
                Token::Stdin(number) => self.pump_input(number, port),
                Token::Output(number, channel) => self.pump_output(number, channel, port),
                Token::Connection(number) => self.connection_event(number, port),
                Token::Orphan(number) => self.orphans.drain(&self.poll, number),
                Token::Stray(number) => self.orphans.reap(&self.poll, number),
                Token::StreamTimer => self.grace_is_over(),
                Token::OutOfMemory => {
                    self.thrash.wake();
                    self.report_oom(port);
                }
                Token::Thrash => self.look_for_thrash(port),
            }
        }
        Ok(of_port)
    }

    /// Tells the host of processes that were killed because memory ran out.
    fn report_oom(&mut self, port: &mut Port) {
        let killed = self.oom.killed();
        if killed > 0 {
            port.send(CONTROL_STREAM, &AgentMessage::OutOfMemory { killed });
        }
    }

    /// Ends a process of a workload that turns in circles, and tells the host.
    fn look_for_thrash(&mut self, port: &mut Port) {
        if self.thrash.tick() {
            port.send(CONTROL_STREAM, &AgentMessage::OutOfMemory { killed: 1 });
        }
    }

    /// Takes all outputs out of the wait, or puts them back.
    fn hold_outputs(&mut self, hold: bool) -> Result<()> {
        match (hold, self.outputs_held) {
            (true, false) => self.poll.remove(&self.outputs),
            (false, true) => self
                .poll
                .add(&self.outputs, Token::Outputs, EventFlags::IN)?,
            _ => {}
        }
        self.outputs_held = hold;
        Ok(())
    }
}

fn log_failure(result: Result<()>) {
    if let Err(failure) = result {
        log::error(&failure.message);
    }
}
