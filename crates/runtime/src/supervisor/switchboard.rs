//! The supervisor's one owner of everything: it works off the queue of events.
//!
//! Frames are routed between the guest's sessions and the clients' connections; requests become
//! sessions, signals and answers. Nothing here waits for a client or the guest: what goes out
//! goes into queues that are bounded by credit.

use std::{collections::HashMap, time::Duration};

use cofferdam_backend::Machine;
use cofferdam_base::{LockFile, time::unix_time_ns};
use cofferdam_proto::{
    AgentMessage, CLIENT_GENERATION, Channel, ClientMessage, ClientRequest, FrameError, FrameKind,
    HostMessage, LiveStatus, Request, SESSION_STREAM, SupervisorMessage, decode_control,
    encode_control, encode_credit,
};
use cofferdam_types::{ExitStatus, SandboxStatus, Signal};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    FIRST_CLIENT,
    agent::{OwnedFrame, refused},
    client::Client,
    event::{ClientEvent, ClientId, Event},
    only_at_birth,
    session::Session,
    start::{Live, StartOptions, other_generation},
    workload::{OUTPUTS, Workload},
};
use crate::{
    error::{Error, ErrorKind, Result, to_remote},
    layout::SandboxPaths,
    output_log::LogWriter,
    store::{Entry, Store},
};

/// Most sessions at once; the agent has the same bound.
const MAX_SESSIONS: usize = 1024;

/// Most clients at once: file descriptors are finite.
const MAX_CLIENTS: usize = 4096;

/// How often attached clients are looked at for stalling.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It has not said, or was answered.
    None,
    /// It reads and writes the workload's streams.
    Attached,
    /// It reads and writes those of a session.
    Session(u32),
    /// It waits for the workload's exit status.
    Waiter,
    /// It waits for the sandbox to have stopped.
    Stopper,
}

/// The owner of a live sandbox.
#[derive(Debug)]
pub(crate) struct Switchboard {
    pub(super) store: Store,
    pub(super) entry: Entry,
    pub(super) machine: Box<dyn Machine>,
    pub(super) lock: Option<LockFile>,
    agent: mpsc::UnboundedSender<Vec<u8>>,
    events: mpsc::Sender<Event>,
    clients: HashMap<ClientId, (Client, Role)>,
    next_client: ClientId,
    sessions: HashMap<u32, Session>,
    next_session: u32,
    workload: Workload,
    wanted_template: Option<super::start::WantedTemplate>,
    backend: &'static str,
    stop_stage: StopStage,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StopStage {
    /// Nobody asked.
    NotAsked,
    /// The stop signal was sent.
    Asked,
    /// SIGKILL was sent.
    Forced,
}

/// How a sandbox's life ended.
#[derive(Debug)]
pub(super) enum End {
    /// The workload ended.
    Exited(ExitStatus),
    /// The machine was lost.
    Failed(Error),
}

/// How long the guest may take to end the workload after SIGKILL before the machine goes.
const FORCED_TIMEOUT: Duration = Duration::from_secs(5);

/// What starts a switchboard.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) entry: Entry,
    pub(super) paths: SandboxPaths,
    pub(super) live: Live,
    pub(super) lock: LockFile,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) client: Client,
    pub(super) options: StartOptions,
}

impl Switchboard {
    /// Takes over a sandbox that runs, and listens for clients.
    pub(super) fn open(
        parts: Parts,
    ) -> std::result::Result<(Self, Vec<OwnedFrame>), (Client, Error)> {
        let Parts {
            store,
            mut entry,
            paths,
            live,
            lock,
            events,
            client,
            options,
        } = parts;
        let listener = match super::listen(&paths) {
            Ok(listener) => listener,
            Err(error) => return Err((client, error)),
        };
        entry.state.status = SandboxStatus::Running;
        entry.state.started_ns = Some(live.started_ns);
        entry.state.finished_ns = None;
        entry.state.machine_pid = Some(live.machine.pid());
        entry.state.backend = Some(live.backend.to_owned());
        if let Err(error) = store.set_state(entry.record.id, &entry.state) {
            return Err((client, error));
        }
        let log = LogWriter::open(&paths.output()).ok();
        let (agent, early) = live.agent.split(events.clone());
        spawn_accept(listener, events.clone());
        let mut workload = Workload::new(log);
        client.answer(&SupervisorMessage::Started {
            pid: 1,
            timeline: live.timeline,
        });
        let role = if options.attach {
            workload.attach(FIRST_CLIENT, options.stdin, options.tied);
            Role::Attached
        } else {
            Role::None
        };
        let board = Self {
            store,
            entry,
            machine: live.machine,
            lock: Some(lock),
            agent,
            events,
            clients: HashMap::from([(FIRST_CLIENT, (client, role))]),
            next_client: FIRST_CLIENT + 1,
            sessions: HashMap::new(),
            next_session: SESSION_STREAM + 1,
            workload,
            wanted_template: live.wanted_template,
            backend: live.backend,
            stop_stage: StopStage::NotAsked,
        };
        Ok((board, early))
    }

    /// Works until the workload has ended or the machine is lost.
    pub(super) async fn run(
        &mut self,
        early: Vec<OwnedFrame>,
        queue: &mut mpsc::Receiver<Event>,
    ) -> End {
        // A sandbox without input to come must not wait for any.
        if !self.entry.record.spec.stdin {
            let _ = self.workload.input.push(&[], true);
            self.pump_workload_input();
        }
        for frame in early {
            if let Some(end) = self.on_agent(&frame) {
                return end;
            }
        }
        tick(STALL_CHECK_INTERVAL, &self.events, || Event::StalledCheck);
        later(
            crate::supervisor::TEMPLATE_DELAY,
            &self.events,
            Event::TemplateTime,
        );
        loop {
            tokio::select! {
                // Frames that the guest sent before it died come first.
                biased;
                event = queue.recv() => match event {
                    Some(event) => if let Some(end) = self.handle(event) {
                        return end;
                    },
                    None => return End::Failed(Error::new(ErrorKind::Bug, "The queue closed")),
                },
                exit = self.machine.wait() => {
                    if let Some(end) = self.drain(queue).await {
                        return end;
                    }
                    return self.machine_lost(&format!("It ended with {exit:?}"));
                }
            }
        }
    }

    /// Works off what was under way when the machine ended: its last words are in the socket.
    async fn drain(&mut self, queue: &mut mpsc::Receiver<Event>) -> Option<End> {
        while let Some(event) = queue.recv().await {
            match event {
                Event::AgentLost(_) => return None,
                event => {
                    if let Some(end) = self.handle(event) {
                        return Some(end);
                    }
                }
            }
        }
        None
    }

    fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Agent(frame) => return self.on_agent(&frame),
            Event::AgentLost(error) => return Some(End::Failed(error)),
            Event::Connected(stream) => self.connected(stream),
            Event::Client(id, event) => self.on_client(id, event),
            Event::Terminated => self.stop(None),
            Event::StopTimeout => return self.stop_timeout(),
            Event::StalledCheck => {
                for id in self.workload.stalled() {
                    self.drop_client(id);
                }
                self.give_workload_credit();
            }
            Event::TemplateTime => self.make_template(),
        }
        None
    }

    fn machine_lost(&self, detail: &str) -> End {
        End::Failed(Error::new(
            ErrorKind::GuestFailed,
            format!(
                "The machine of `{}` is gone: {detail}",
                self.entry.record.name
            ),
        ))
    }

    // --- from the guest ---

    fn on_agent(&mut self, frame: &OwnedFrame) -> Option<End> {
        let result = match frame.kind {
            FrameKind::Control => return self.agent_message(frame),
            FrameKind::Data => self.guest_output(frame),
            FrameKind::Credit => self.guest_credit(frame),
        };
        result.err().map(|error| {
            End::Failed(
                Error::new(ErrorKind::GuestFailed, "The guest broke the agent protocol")
                    .because(error),
            )
        })
    }

    fn guest_output(&mut self, frame: &OwnedFrame) -> std::result::Result<(), FrameError> {
        if frame.stream == SESSION_STREAM {
            self.workload.received(frame.channel, &frame.payload)?;
            for id in self.workload.clients() {
                if let Some((client, _)) = self.clients.get_mut(&id) {
                    client.output(frame.channel, &frame.payload, frame.eof);
                }
            }
            self.give_workload_credit();
            return Ok(());
        }
        // A session that is unknown here ended, or lost its client and was told to be quiet.
        let Some(session) = self.sessions.get_mut(&frame.stream) else {
            return Ok(());
        };
        session.received(frame.channel, frame.payload.len())?;
        if let Some((client, _)) = session.client.and_then(|id| self.clients.get_mut(&id)) {
            client.output(frame.channel, &frame.payload, frame.eof);
        }
        Ok(())
    }

    fn guest_credit(&mut self, frame: &OwnedFrame) -> std::result::Result<(), FrameError> {
        let payload = frame.payload.as_slice();
        let bytes = payload
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| FrameError::BadCredit)?;
        if frame.stream == SESSION_STREAM {
            self.workload.input.credit(bytes)?;
            self.pump_workload_input();
        } else if let Some(session) = self.sessions.get_mut(&frame.stream) {
            session.input.credit(bytes)?;
            self.pump_session_input(frame.stream);
        }
        Ok(())
    }

    fn agent_message(&mut self, frame: &OwnedFrame) -> Option<End> {
        let message = match decode_control::<AgentMessage>(&frame.payload) {
            Ok(message) => message,
            Err(error) => {
                let broken = Error::new(ErrorKind::GuestFailed, "The guest broke the protocol");
                return Some(End::Failed(broken.because(error)));
            }
        };
        if frame.stream == SESSION_STREAM {
            return match message {
                AgentMessage::Exited { status } => Some(End::Exited(status)),
                AgentMessage::Failed(failure) => Some(End::Failed(refused(&failure))),
                _ => None,
            };
        }
        let session = self.sessions.get(&frame.stream)?;
        let (client, detach) = (session.client, session.detach);
        let answer = match message {
            AgentMessage::Started { pid } => Some(SupervisorMessage::Started {
                pid,
                timeline: Vec::new(),
            }),
            AgentMessage::Exited { status } => {
                self.sessions.remove(&frame.stream);
                Some(SupervisorMessage::Exited { status })
            }
            AgentMessage::Failed(failure) => {
                self.sessions.remove(&frame.stream);
                Some(SupervisorMessage::Failed(to_remote(&refused(&failure))))
            }
            _ => None,
        };
        if let (Some(answer), Some(id)) = (answer, client) {
            self.answer(id, &answer);
        }
        if detach {
            self.leave_session(frame.stream);
        }
        None
    }

    // --- from clients ---

    fn connected(&mut self, stream: UnixStream) {
        let id = self.next_client;
        self.next_client += 1;
        if self.clients.len() >= MAX_CLIENTS {
            return;
        }
        if let Some(client) = Client::accept(id, stream, self.events.clone()) {
            self.clients.insert(id, (client, Role::None));
        }
    }

    fn on_client(&mut self, id: ClientId, event: ClientEvent) {
        let Some(role) = self.clients.get(&id).map(|(_, role)| *role) else {
            return;
        };
        match event {
            ClientEvent::Request(request) => {
                if let Err(error) = self.request(id, request) {
                    self.answer(id, &SupervisorMessage::Failed(to_remote(&error)));
                }
            }
            ClientEvent::Message(message) => self.session_message(role, &message),
            ClientEvent::Input { bytes, eof } => self.client_input(id, role, &bytes, eof),
            ClientEvent::Credit { channel, bytes } => self.client_credit(id, role, channel, bytes),
            ClientEvent::Gone => self.drop_client(id),
        }
    }

    fn request(&mut self, id: ClientId, request: ClientRequest) -> Result<()> {
        if request.generation != CLIENT_GENERATION {
            return Err(other_generation());
        }
        match request.request {
            request if only_at_birth(&request) => Err(Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{}` is already running", self.entry.record.name),
            )),
            Request::Start { .. } => Ok(()),
            Request::Attach { stdin } => {
                self.workload.attach(id, stdin, false);
                self.set_role(id, Role::Attached);
                let started = SupervisorMessage::Started {
                    pid: 1,
                    timeline: Vec::new(),
                };
                self.answer(id, &started);
                Ok(())
            }
            Request::Exec { process, detach } => self.exec(id, process, detach),
            Request::Kill { signal } => {
                let signal = Signal::try_from(signal).map_err(|error| {
                    Error::new(ErrorKind::InvalidSpec, "No such signal").because(error)
                })?;
                self.send(
                    SESSION_STREAM,
                    &HostMessage::Signal {
                        signal: signal.number(),
                    },
                )?;
                if signal == Signal::KILL {
                    self.set_role(id, Role::Stopper);
                    self.force();
                } else {
                    self.answer(id, &SupervisorMessage::Done);
                }
                Ok(())
            }
            Request::Stop { timeout_ms } => {
                self.set_role(id, Role::Stopper);
                self.stop(timeout_ms.map(Duration::from_millis));
                Ok(())
            }
            Request::Wait => {
                self.set_role(id, Role::Waiter);
                Ok(())
            }
            Request::Status => {
                let status = self.status()?;
                self.answer(id, &SupervisorMessage::Status(status));
                Ok(())
            }
        }
    }

    fn exec(
        &mut self,
        id: ClientId,
        process: cofferdam_proto::ProcessSpec,
        detach: bool,
    ) -> Result<()> {
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("A sandbox runs at most {MAX_SESSIONS} commands at once"),
            ));
        }
        let stream = self.next_session;
        let no_input = !process.stdin;
        self.send(stream, &HostMessage::Exec(process))?;
        self.next_session += 1;
        let mut session = Session::new(id, detach);
        if no_input {
            // Nothing is pending, so this cannot exceed the window.
            let _ = session.input.push(&[], true);
        }
        self.sessions.insert(stream, session);
        self.set_role(id, Role::Session(stream));
        Ok(())
    }

    fn status(&self) -> Result<LiveStatus> {
        let metrics = crate::error::lift(self.machine.metrics())?;
        Ok(LiveStatus {
            machine_pid: self.machine.pid(),
            cpu_percent: metrics.cpu_percent,
            memory_bytes: metrics.memory_bytes,
            sessions: u32::try_from(self.sessions.len() + 1).unwrap_or(u32::MAX),
        })
    }

    fn session_message(&mut self, role: Role, message: &ClientMessage) {
        let stream = match role {
            Role::Attached => SESSION_STREAM,
            Role::Session(stream) => stream,
            _ => return,
        };
        let message = match message {
            ClientMessage::Signal { signal } => HostMessage::Signal { signal: *signal },
            ClientMessage::Resize(size) => HostMessage::Resize(*size),
        };
        // A message this small always encodes.
        let _ = self.send(stream, &message);
    }

    fn client_input(&mut self, id: ClientId, role: Role, bytes: &[u8], eof: bool) {
        let result = match role {
            Role::Attached if self.workload.owns_input(id) => self.workload.input.push(bytes, eof),
            Role::Session(stream) => match self.sessions.get_mut(&stream) {
                Some(session) => session.input.push(bytes, eof),
                None => Ok(()),
            },
            // Input that nobody owns is dropped, as the client was told by its role.
            _ => Ok(()),
        };
        match (result, role) {
            (Err(_), _) => self.drop_client(id),
            (Ok(()), Role::Session(stream)) => self.pump_session_input(stream),
            (Ok(()), _) => self.pump_workload_input(),
        }
    }

    fn client_credit(&mut self, id: ClientId, role: Role, channel: Channel, bytes: u32) {
        let fits = self
            .clients
            .get_mut(&id)
            .is_some_and(|(client, _)| client.credit(channel, bytes));
        if !fits {
            self.drop_client(id);
            return;
        }
        match role {
            Role::Attached => {
                self.workload.has_read(id, channel, bytes);
                self.give_workload_credit();
            }
            Role::Session(stream) => {
                if let Some(session) = self.sessions.get_mut(&stream)
                    && let Ok(due @ 1..) = session.allow(channel, bytes)
                {
                    self.give_credit(stream, channel, due);
                }
            }
            _ => {}
        }
    }

    fn drop_client(&mut self, id: ClientId) {
        let Some((_, role)) = self.clients.remove(&id) else {
            return;
        };
        match role {
            Role::Attached => {
                if self.workload.detach(id) {
                    self.force();
                }
                self.give_workload_credit();
            }
            Role::Session(stream) => self.leave_session(stream),
            _ => {}
        }
    }

    /// A session goes on without its client.
    fn leave_session(&mut self, stream: u32) {
        if let Some(session) = self.sessions.get_mut(&stream)
            && session.client.take().is_some()
        {
            let _ = self.send(stream, &HostMessage::Detach);
        }
    }

    // --- to the guest ---

    fn send(&self, stream: u32, message: &HostMessage) -> Result<()> {
        let mut bytes = Vec::new();
        encode_control(stream, message, &mut bytes).map_err(|error| {
            Error::new(
                ErrorKind::InvalidSpec,
                "The request is too large for the guest",
            )
            .because(error)
        })?;
        // A closed queue means that the machine is gone; its event is under way.
        let _ = self.agent.send(bytes);
        Ok(())
    }

    fn give_credit(&self, stream: u32, channel: Channel, bytes: u32) {
        let mut out = Vec::new();
        encode_credit(stream, channel, bytes, &mut out);
        let _ = self.agent.send(out);
    }

    fn give_workload_credit(&mut self) {
        for (channel, bytes) in OUTPUTS.into_iter().zip(self.workload.take_credit()) {
            if bytes > 0 {
                self.give_credit(SESSION_STREAM, channel, bytes);
            }
        }
    }

    fn pump_workload_input(&mut self) {
        let mut out = Vec::new();
        let taken = self.workload.input.drain(SESSION_STREAM, &mut out);
        self.pumped(out, taken, self.workload.input_owner());
    }

    fn pump_session_input(&mut self, stream: u32) {
        let Some(session) = self.sessions.get_mut(&stream) else {
            return;
        };
        let mut out = Vec::new();
        let taken = session.input.drain(stream, &mut out);
        let client = session.client;
        self.pumped(out, taken, client);
    }

    fn pumped(&self, out: Vec<u8>, taken: u32, client: Option<ClientId>) {
        if !out.is_empty() {
            let _ = self.agent.send(out);
        }
        if taken > 0
            && let Some((client, _)) = client.and_then(|id| self.clients.get(&id))
        {
            client.give_input_credit(taken);
        }
    }

    // --- stopping ---

    fn stop(&mut self, timeout: Option<Duration>) {
        let record = &self.entry.record;
        let own = Duration::from_secs(u64::from(record.spec.stop_timeout_s));
        let timeout = timeout.unwrap_or(own);
        if self.stop_stage == StopStage::NotAsked {
            self.stop_stage = StopStage::Asked;
            let signal = record.stop_signal.number();
            let _ = self.send(SESSION_STREAM, &HostMessage::Signal { signal });
            self.set_stopping();
        }
        later(timeout, &self.events, Event::StopTimeout);
    }

    /// Ends the workload now.
    fn force(&mut self) {
        if self.stop_stage < StopStage::Forced {
            self.stop_stage = StopStage::Forced;
            let signal = Signal::KILL.number();
            let _ = self.send(SESSION_STREAM, &HostMessage::Signal { signal });
            self.set_stopping();
            later(FORCED_TIMEOUT, &self.events, Event::StopTimeout);
        }
    }

    fn stop_timeout(&mut self) -> Option<End> {
        match self.stop_stage {
            StopStage::Forced => Some(End::Exited(ExitStatus::Signal(Signal::KILL.number()))),
            _ => {
                self.force();
                None
            }
        }
    }

    fn set_stopping(&mut self) {
        if self.entry.state.status.can_become(SandboxStatus::Stopping) {
            self.entry.state.status = SandboxStatus::Stopping;
            // Readers see `running` a moment longer if this fails.
            let _ = self
                .store
                .set_state(self.entry.record.id, &self.entry.state);
        }
    }

    /// Lets the guest put its file systems in order and end the machine.
    pub(super) fn shut_down(&self) {
        let _ = self.send(cofferdam_proto::CONTROL_STREAM, &HostMessage::Shutdown);
    }

    /// Tells everybody how it ended.
    pub(super) fn tell_all(&mut self, end: &End) {
        let answer = match end {
            End::Exited(status) => SupervisorMessage::Exited { status: *status },
            End::Failed(error) => SupervisorMessage::Failed(to_remote(error)),
        };
        let killed = SupervisorMessage::Exited {
            status: ExitStatus::Signal(Signal::KILL.number()),
        };
        for (client, role) in self.clients.values_mut() {
            match role {
                Role::Attached | Role::Waiter => client.answer(&answer),
                Role::Session(_) => client.answer(&killed),
                Role::Stopper => client.answer(&SupervisorMessage::Done),
                Role::None => {}
            }
        }
        self.clients.retain(|_, (_, role)| *role != Role::None);
    }

    /// Waits until the clients that were told have read it and left.
    pub(super) async fn linger(mut self, queue: &mut mpsc::Receiver<Event>) {
        while !self.clients.is_empty() {
            match queue.recv().await {
                Some(Event::Client(id, ClientEvent::Gone)) => {
                    self.clients.remove(&id);
                }
                Some(Event::Client(id, ClientEvent::Credit { channel, bytes })) => {
                    if let Some((client, _)) = self.clients.get_mut(&id) {
                        client.credit(channel, bytes);
                    }
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    pub(super) fn finished(&mut self, end: &End) {
        let state = &mut self.entry.state;
        state.finished_ns = Some(unix_time_ns());
        state.supervisor_pid = None;
        state.machine_pid = None;
        match end {
            End::Exited(status) => {
                state.status = SandboxStatus::Stopped;
                state.exit = Some(*status);
            }
            End::Failed(error) => {
                state.status = SandboxStatus::Failed;
                state.failure = Some(to_remote(error).into());
            }
        }
    }

    /// Starts the builder of this image's template, once.
    pub(super) fn make_template(&mut self) {
        let Some(wanted) = self.wanted_template.take() else {
            return;
        };
        let result = crate::template::spawn_image_build(
            self.store.layout(),
            self.backend,
            &wanted.guest,
            &wanted.shape,
            &wanted.root,
            &wanted.rootfs,
        );
        if let Err(error) = result {
            super::log_line(&format!("No image template: {}", error.chain()));
        }
    }

    fn answer(&self, id: ClientId, message: &SupervisorMessage) {
        if let Some((client, _)) = self.clients.get(&id) {
            client.answer(message);
        }
    }

    fn set_role(&mut self, id: ClientId, new: Role) {
        if let Some((_, role)) = self.clients.get_mut(&id) {
            *role = new;
        }
    }
}

/// Sends SIGTERM, SIGINT and SIGHUP to the queue.
pub(super) fn forward_signals(events: &mpsc::Sender<Event>) {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let Ok(mut stream) = signal(kind) else {
            continue;
        };
        let events = events.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if events.send(Event::Terminated).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn spawn_accept(listener: UnixListener, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if events.send(Event::Connected(stream)).await.is_err() {
                        return;
                    }
                }
                // Out of descriptors: clients wait in the backlog until one is free.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    });
}

/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn later(delay: Duration, events: &mpsc::Sender<Event>, event: Event) {
    let events = events.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = events.send(event).await;
    });
}

fn tick(interval: Duration, events: &mpsc::Sender<Event>, event: fn() -> Event) {
    let events = events.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            if events.send(event()).await.is_err() {
                return;
            }
        }
    });
}
