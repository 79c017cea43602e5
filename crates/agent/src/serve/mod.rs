//! The agent's one loop: messages from the host, events of processes.
//!
//! Steps (`Adopt`, `MountRoot`, `Start`) are worked off in order; after one has failed all later
//! ones are refused, since the host may have sent them already. `Adopt` may come before and after
//! `MountRoot` and again in a fork. While the machine is [`Frozen`] the sessions are left alone.

mod connect;
mod freeze;
mod hook;
mod readdress;
mod start;
mod trim;

use std::{collections::BTreeSet, os::fd::OwnedFd, time::Duration};

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Decoder, DiskPart, FailureKind, FrameError, FrameKind,
    GENERATION, HostMessage, Identity, RootSpec, decode_control,
};
use cofferdam_types::Rlimit;
use rustix::{
    event::epoll::EventFlags,
    time::{ClockId, clock_gettime},
};

use crate::{
    cgroup::{self, CpuThrottle},
    condition,
    failure::{Result, failure},
    frozen::Frozen,
    identity::{self, Names},
    log,
    mounts::{self, Root, Stage},
    network::Network,
    poll::Poll,
    port::Port,
    process::{Place, Spawner, Trimmer},
    process_list,
    session::Sessions,
    write_back::WriteBack,
};

/// Where the workload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    NotStarted,
    Running(u32),
    Ended(u32),
}

impl Workload {
    /// Its session.
    fn session(self) -> Option<u32> {
        match self {
            Self::NotStarted => None,
            Self::Running(number) | Self::Ended(number) => Some(number),
        }
    }
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    port: Port,
    sessions: Sessions,
    spawner: Spawner,
    names: Names,
    network: Network,
    stage: Stage,
    root: Option<Root>,
    workload: Workload,
    /// Whether no process of the user ran yet.
    untouched: bool,
    /// Where new randomness goes.
    entropy: OwnedFd,
    /// Whether new processes are born into the workload's PID namespace.
    joined: bool,
    /// Sessions of warm-ups that may still run.
    warm_ups: BTreeSet<u32>,
    frozen: Option<Frozen>,
    write_back: WriteBack,
    trimmer: Trimmer,
    /// What is trimmed at the end.
    last_trim: Vec<DiskPart>,
    /// Whether the user's processes are slowed down.
    throttle: CpuThrottle,
    /// Limits of the sandbox, for every process.
    rlimits: Vec<Rlimit>,
    /// A certificate that goes into the trust stores of the image before the workload goes on: their
    /// disk may be frozen until then.
    trust: Option<String>,
    /// Whether a step has failed.
    failed: bool,
    ending: bool,
}

impl Agent {
    pub(crate) fn new(port: Port) -> Result<Self> {
        let poll = Poll::new()?;
        port.watch(&poll)?;
        let names = Names::default();
        let stage = Stage::prepare(&names)?;
        Ok(Self {
            port,
            sessions: Sessions::new(poll)?,
            spawner: Spawner::new()?,
            names,
            network: Network::find(),
            stage,
            root: None,
            workload: Workload::NotStarted,
            untouched: true,
            entropy: identity::open_entropy()?,
            joined: false,
            warm_ups: BTreeSet::new(),
            frozen: None,
            write_back: WriteBack::default(),
            trimmer: Trimmer::default(),
            last_trim: Vec::new(),
            throttle: CpuThrottle::default(),
            rlimits: Vec::new(),
            trust: None,
            failed: false,
            ending: false,
        })
    }

    /// Serves until the host asks for the end.
    pub(crate) fn run(mut self) -> Result<()> {
        self.ready();
        while !self.ending {
            let all_sent = self.frozen.is_some() || self.sessions.pump_ending(&mut self.port);
            self.port.flush();
            if !all_sent && !self.port.is_congested() {
                continue;
            }
            let block = !self.port.can_receive();
            let of_port = match &self.frozen {
                Some(frozen) => frozen.wait(block)?,
                None => self.wait(block)?,
            };
            if let Some(flags) = of_port {
                self.port.changed(flags);
            }
            while !self.ending && self.port.receive() {
                self.take_frames();
            }
        }
        self.shut_down()
    }

    /// Waits for processes and the host; returns what became of the port.
    fn wait(&mut self, block: bool) -> Result<Option<EventFlags>> {
        let mut ended = Vec::new();
        let of_port = self.sessions.wait(block, &mut self.port, &mut ended)?;
        for number in ended {
            self.warm_ups.remove(&number);
            if self.workload == Workload::Running(number) {
                self.workload = Workload::Ended(number);
            }
        }
        Ok(of_port)
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
        let allowed = match self.frozen {
            Some(_) => Frozen::check(&message),
            None => Ok(()),
        };
        let answer = allowed.and_then(|()| match message {
            HostMessage::Hello { generation } => self.greet(generation),
            HostMessage::Adopt(identity) => self.step(|agent| agent.adopt(&identity)),
            HostMessage::MountRoot(spec) => self.step(|agent| agent.mount_root(&spec)),
            HostMessage::WarmUp(process) => self.warm_up(stream, &process, Place::WarmUp),
            HostMessage::Rehearse(process) => self.warm_up(stream, &process, Place::Rehearsal),
            HostMessage::Start { process, limits } => {
                self.step(|agent| agent.start(stream, &process, limits))
            }
            HostMessage::Exec { process, wait_all } => self.exec(stream, &process, wait_all),
            HostMessage::Connect(target) => self.connect(stream, &target),
            HostMessage::Signal { signal } => {
                self.sessions.signal(stream, signal);
                Ok(None)
            }
            HostMessage::SignalSession { signal } => {
                self.sessions.signal_all(stream, signal);
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
            HostMessage::Quiesce => self.quiesce(),
            HostMessage::Freeze { sync } => self.freeze(sync),
            HostMessage::Thaw { unix_ns } => self.thaw(unix_ns),
            HostMessage::WriteBack { eager } => self.write_back(eager),
            HostMessage::HoldBack { percent } => self.hold_back(percent),
            HostMessage::Inherit => self.step(Self::inherit),
            HostMessage::Hook {
                process,
                timeout_ms,
            } => self.hook(&process, Duration::from_millis(timeout_ms.into())),
            HostMessage::Trust { certificate } => self.step(|agent| agent.trust(certificate)),
            HostMessage::Readdress(network) => self.readdress(&network),
            HostMessage::Limit(limits) => self.step(|agent| agent.limit_again(limits)),
            HostMessage::Shutdown { trim } => {
                self.ending = true;
                self.last_trim = trim;
                Ok(None)
            }
            HostMessage::Trim { parts, commit } => self.trim(&parts, commit),
            HostMessage::ListProcesses => {
                process_list::list().map(|list| Some(AgentMessage::Processes(list)))
            }
            HostMessage::Examine { settled } => {
                Ok(Some(AgentMessage::Condition(condition::examine(settled))))
            }
        });
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
        if let Some(frozen) = &mut self.frozen {
            frozen.greeted();
        }
        self.ready();
        Ok(None)
    }

    fn quiesce(&mut self) -> Result<Option<AgentMessage>> {
        self.check_warm_ups()?;
        if let (Workload::NotStarted, Some(root)) = (self.workload, &self.root) {
            mounts::warm(root);
            if let Err(failure) = self.spawner.prepare(&self.stage, root) {
                let note = AgentMessage::NotPrepared(failure);
                self.port.send(CONTROL_STREAM, &note);
            }
        }
        rustix::fs::sync();
        Ok(Some(AgentMessage::Quiesced))
    }

    /// Fails after a step has failed: a machine that is not what the host believes does nothing.
    fn check_steps(&self) -> Result<()> {
        if self.failed {
            return Err(failure(
                FailureKind::OutOfOrder,
                "An earlier step has failed",
            ));
        }
        Ok(())
    }

    /// Does a step, unless an earlier one has failed.
    fn step(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<Option<AgentMessage>>,
    ) -> Result<Option<AgentMessage>> {
        self.check_steps()?;
        let result = step(self);
        self.failed = result.is_err();
        result
    }

    fn adopt(&mut self, identity: &Identity) -> Result<Option<AgentMessage>> {
        // First of all: it was right when the message was sent.
        identity::set_clock(identity.unix_ns)?;
        if let Some(process_warmer) = self.spawner.send_ahead() {
            // It can be done without, so nothing about it is a reason to fail.
            self.sessions.take_process(process_warmer);
        }
        identity::adopt(identity, &self.entropy)?;
        self.network.adopt(identity.network.as_ref())?;
        let names = Names::of(identity, self.network.names())?;
        if self.workload != Workload::NotStarted {
            self.network.end_connections();
        }
        self.stage.etc.rename(&names, self.untouched)?;
        self.stage.generation.write(identity)?;
        self.names = names;
        if let Some(frozen) = &mut self.frozen {
            frozen.adopted();
        }
        Ok(Some(AgentMessage::Adopted))
    }

    fn mount_root(&mut self, spec: &RootSpec) -> Result<Option<AgentMessage>> {
        if let Some(root) = &self.root {
            if !matches!(self.workload, Workload::NotStarted) {
                let message = "The root is mounted already";
                return Err(failure(FailureKind::OutOfOrder, message));
            }
            // A template has mounted it.
            self.stage.adapt(root, spec)?;
            return Ok(Some(AgentMessage::RootMounted));
        }
        self.root = Some(self.stage.mount_root(spec)?);
        Ok(Some(AgentMessage::RootMounted))
    }

    /// Has programs trust a certificate. Its place on a disk that may be frozen waits for the thaw.
    fn trust(&mut self, certificate: String) -> Result<Option<AgentMessage>> {
        let directory = &self.stage.generation.directory;
        mounts::write_own_trust(directory, self.root.as_ref(), &certificate)?;
        match (&self.frozen, &self.root) {
            (None, Some(root)) => mounts::install_trust(root, &certificate),
            _ => self.trust = Some(certificate),
        }
        Ok(Some(AgentMessage::Trusted))
    }

    /// Ends all processes and leaves the disk clean.
    fn shut_down(mut self) -> Result<()> {
        self.port.flush();
        // A killed process may still have to write, such as for a file that it was the last to use.
        if let Some(frozen) = &mut self.frozen
            && let Err(failure) = frozen.release_disk(self.root.as_ref())
        {
            log::error(&failure.message);
        }
        // A process that cannot be killed must not keep the disk from being synced.
        if let Err(failure) = cgroup::kill() {
            log::error(&failure.message);
        }
        rustix::fs::sync();
        match self.root {
            Some(root) => {
                trim::at_end(&root.upper, &self.last_trim);
                mounts::freeze(&root.upper)
            }
            None => Ok(()),
        }
    }
}
