//! The agent's one loop: messages from the host, events of processes.
//!
//! Steps (`Adopt`, `MountRoot`, `Start`) are worked off in order; after one has failed all later
//! ones are refused, since the host may have sent them already. `Adopt` may come before and after
//! `MountRoot` and again in a fork.

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Decoder, FailureKind, FrameError, FrameKind, GENERATION,
    HostMessage, Identity, ProcessSpec, RootSpec, decode_control,
};
use cofferdam_types::{ResourceLimits, Rlimit};
use rustix::{
    event::epoll::EventFlags,
    time::{ClockId, clock_gettime},
};

use crate::{
    cgroup,
    failure::{Result, failure},
    identity::{self, Names},
    log,
    mounts::{self, Root, Stage},
    poll::{Poll, Token},
    port::Port,
    process::{self, ChildStack, Context},
    session::{MAX_SESSIONS, Sessions},
};

/// Where the workload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    NotStarted,
    Running(u32),
    Ended,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    port: Port,
    sessions: Sessions,
    stack: ChildStack,
    names: Names,
    stage: Stage,
    root: Option<Root>,
    workload: Workload,
    /// Limits of the sandbox, for every process.
    rlimits: Vec<Rlimit>,
    /// Whether a step has failed.
    failed: bool,
    ending: bool,
}

impl Agent {
    pub(crate) fn new(port: Port) -> Result<Self> {
        let poll = Poll::new()?;
        poll.add(
            &port.fd,
            Token::Port,
            EventFlags::IN | EventFlags::OUT | EventFlags::ET,
        )?;
        let names = Names::default();
        let stage = Stage::prepare(&names)?;
        process::enter_new_namespace()?;
        Ok(Self {
            port,
            sessions: Sessions::new(poll)?,
            stack: ChildStack::new()?,
            names,
            stage,
            root: None,
            workload: Workload::NotStarted,
            rlimits: Vec::new(),
            failed: false,
            ending: false,
        })
    }

    /// Serves until the host asks for the end.
    pub(crate) fn run(mut self) -> Result<()> {
        self.ready();
        while !self.ending {
            let all_sent = self.sessions.pump_ending(&mut self.port);
            self.port.flush();
            if !all_sent && !self.port.is_congested() {
                continue;
            }
            let mut ended = Vec::new();
            let block = !self.port.can_receive();
            if let Some(flags) = self.sessions.wait(block, &mut self.port, &mut ended)? {
                self.port.changed(flags);
            }
            if let Workload::Running(number) = self.workload
                && ended.contains(&number)
            {
                self.workload = Workload::Ended;
            }
            while !self.ending && self.port.receive() {
                self.take_frames();
            }
        }
        self.shut_down()
    }

    fn ready(&mut self) {
        let now = clock_gettime(ClockId::Monotonic);
        let [seconds, nanos] =
            [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or_default());
        let ready = AgentMessage::Ready {
            generation: GENERATION,
            uptime_ns: seconds * 1_000_000_000 + nanos,
        };
        self.port.send(CONTROL_STREAM, &ready);
    }

    /// Works off the whole frames that were received.
    fn take_frames(&mut self) {
        let mut decoder = std::mem::take(&mut self.port.decoder);
        match self.take_frames_of(&mut decoder) {
            Ok(()) => self.port.decoder = decoder,
            Err(error) => self.port.give_up(error),
        }
    }

    fn take_frames_of(&mut self, decoder: &mut Decoder) -> std::result::Result<(), FrameError> {
        while let Some(frame) = decoder.next_frame()? {
            self.port.took_frame(frame.payload.len());
            match frame.kind {
                FrameKind::Control => {
                    let message = decode_control(frame.payload)?;
                    self.obey(frame.stream, message);
                }
                FrameKind::Data => {
                    self.sessions
                        .data(frame.stream, frame.payload, frame.eof, &mut self.port)?;
                }
                FrameKind::Credit => {
                    self.sessions
                        .credit(frame.stream, frame.channel, frame.credit()?)?;
                }
            }
            if self.ending {
                break;
            }
        }
        Ok(())
    }

    fn obey(&mut self, stream: u32, message: HostMessage) {
        let answer = match message {
            HostMessage::Hello { generation } => self.greet(generation),
            HostMessage::Adopt(identity) => self.step(|agent| agent.adopt(&identity)),
            HostMessage::MountRoot(spec) => self.step(|agent| agent.mount_root(&spec)),
            HostMessage::Start { process, limits } => {
                self.step(|agent| agent.start(stream, &process, limits))
            }
            HostMessage::Exec(process) => self.exec(stream, &process),
            HostMessage::Signal { signal } => {
                self.sessions.signal(stream, signal);
                Ok(None)
            }
            HostMessage::Resize(size) => {
                self.sessions.resize(stream, size);
                Ok(None)
            }
            HostMessage::Detach => {
                self.sessions.detach(stream);
                Ok(None)
            }
            HostMessage::Quiesce => {
                if let (Workload::NotStarted, Some(root)) = (self.workload, &self.root) {
                    mounts::warm(root);
                }
                rustix::fs::sync();
                Ok(Some(AgentMessage::Quiesced))
            }
            HostMessage::Shutdown => {
                self.ending = true;
                Ok(None)
            }
        };
        match answer {
            Ok(Some(message)) => self.port.send(stream, &message),
            Ok(None) => {}
            Err(failure) => self.port.send(stream, &AgentMessage::Failed(failure)),
        }
    }

    fn greet(&mut self, generation: u32) -> Result<Option<AgentMessage>> {
        if generation != GENERATION {
            let message = format!("Host speaks generation {generation}, the agent {GENERATION}");
            return Err(failure(FailureKind::OutOfOrder, message));
        }
        self.sessions.rewind();
        self.ready();
        Ok(None)
    }

    /// Does a step, unless an earlier one has failed.
    fn step(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<Option<AgentMessage>>,
    ) -> Result<Option<AgentMessage>> {
        if self.failed {
            return Err(failure(
                FailureKind::OutOfOrder,
                "An earlier step has failed",
            ));
        }
        let result = step(self);
        self.failed = result.is_err();
        result
    }

    fn adopt(&mut self, identity: &Identity) -> Result<Option<AgentMessage>> {
        let names = Names::of(identity)?;
        identity::adopt(identity)?;
        self.stage.etc.rename(&names)?;
        self.names = names;
        Ok(Some(AgentMessage::Adopted))
    }

    fn mount_root(&mut self, spec: &RootSpec) -> Result<Option<AgentMessage>> {
        if self.root.is_some() {
            return Err(failure(
                FailureKind::OutOfOrder,
                "The root is mounted already",
            ));
        }
        self.root = Some(self.stage.mount_root(spec)?);
        Ok(Some(AgentMessage::RootMounted))
    }

    fn start(
        &mut self,
        stream: u32,
        process: &ProcessSpec,
        limits: ResourceLimits,
    ) -> Result<Option<AgentMessage>> {
        if self.workload != Workload::NotStarted {
            return Err(failure(
                FailureKind::OutOfOrder,
                "The workload was started already",
            ));
        }
        cgroup::limit(&limits)?;
        self.rlimits = limits.rlimits;
        self.spawn(stream, process, true)?;
        self.workload = Workload::Running(stream);
        Ok(None)
    }

    fn exec(&mut self, stream: u32, process: &ProcessSpec) -> Result<Option<AgentMessage>> {
        match self.workload {
            Workload::NotStarted => {
                Err(failure(FailureKind::OutOfOrder, "No workload was started"))
            }
            Workload::Ended => Err(failure(FailureKind::OutOfOrder, "The workload has ended")),
            Workload::Running(_) => self.spawn(stream, process, false).map(|()| None),
        }
    }

    fn spawn(&mut self, stream: u32, process: &ProcessSpec, first: bool) -> Result<()> {
        if stream == CONTROL_STREAM || self.sessions.contains(stream) {
            let message = format!("Session number {stream} is taken");
            return Err(failure(FailureKind::OutOfOrder, message));
        }
        if self.sessions.len() >= MAX_SESSIONS {
            let message = format!("There are {MAX_SESSIONS} sessions already");
            return Err(failure(FailureKind::Limits, message));
        }
        let Some(root) = &self.root else {
            return Err(failure(FailureKind::OutOfOrder, "The root is not mounted"));
        };
        let context = Context {
            stage: &self.stage,
            root,
            hostname: &self.names.hostname,
            rlimits: &self.rlimits,
            first,
        };
        let (process, stdio) = process::spawn(&context, process, &mut self.stack)?;
        self.sessions.add(stream, process, stdio, &mut self.port)
    }

    /// Ends all processes and leaves the disk clean.
    fn shut_down(mut self) -> Result<()> {
        self.port.flush();
        // A process that cannot be killed must not keep the disk from being synced.
        if let Err(failure) = cgroup::kill() {
            log::error(&failure.message);
        }
        rustix::fs::sync();
        match self.root.and_then(|root| root.upper) {
            Some(upper) => mounts::freeze(&upper),
            None => Ok(()),
        }
    }
}
