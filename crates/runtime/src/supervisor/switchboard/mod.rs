//! The supervisor's one owner of everything: it works off the queue of events.
//!
//! Frames are routed between the guest's sessions and the clients' connections; requests become
//! sessions, signals and answers. Nothing here waits for a client or the guest: what goes out
//! goes into queues that are bounded by credit.

mod captures;
mod clients;
mod dialog;
mod ending;
mod faster;
mod guest;
mod kept;
mod lease;
mod membership;
mod network;
mod processes;
mod run_state;
mod sources;
mod steps;
mod stop;
mod streams;
mod time_limit;
mod trim;
mod trouble;
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cofferdam_backend::Machine;
use cofferdam_base::LockFile;
use cofferdam_proto::{
    ClientRequest, Request, SESSION_STREAM, StartMode, SupervisorMessage, WhenGone,
};
use cofferdam_types::{ExitStatus, SandboxStatus};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

pub(crate) use self::sources::{forward_signals, spawn_accept};
use self::{
    lease::{Leased, state_of},
    run_state::RunState,
    sources::later,
    trim::IdleTrim,
    wire::Wire,
};
use super::{
    FIRST_CLIENT, TEMPLATE_DELAY,
    client::Client,
    early::EarlyClients,
    event::{ClientId, Event},
    lease::Lease,
    live::{AfterStart, Live},
    session::Session,
    stream::GuestStream,
    workload::{Follower, Workload},
};
use crate::{
    base::error::{Error, ErrorKind},
    link::{FromAgent, Outgoing, OwnedFrame},
    network::Network,
    store::{EndedBy, Entry, Store, event::EventKind, layout::SandboxPaths},
};

/// Most sessions at once; the agent has the same bound.
const MAX_SESSIONS: usize = 1024;

/// Most clients at once: file descriptors are finite.
const MAX_CLIENTS: usize = 4096;

/// Said of a sandbox whose machine's filter has no listener (`cofferdam-jail`).
const NO_DISCARD: &str = "What is deleted in the sandbox stays in its disk's file: this kernel, or \
                          what this process runs in, gives seccomp filters no listener";

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It has not said, or was answered.
    None,
    /// It reads and writes the workload's streams.
    Attached,
    /// It reads and writes those of a session.
    Session(u32),
    /// It reads and writes a byte stream to a server in the guest.
    Stream(u32),
    /// It waits for the workload's exit status.
    Waiter,
    /// It waits for the sandbox to have stopped.
    Stopper,
    /// It gets the status at this interval.
    StatusWatcher(Duration),
}

/// The owner of a live sandbox.
#[derive(Debug)]
pub(crate) struct Switchboard {
    pub(in crate::supervisor) store: Store,
    pub(in crate::supervisor) entry: Entry,
    pub(in crate::supervisor) machine: Arc<dyn Machine>,
    pub(in crate::supervisor) lock: Option<LockFile>,
    agent: Outgoing,
    events: mpsc::Sender<Event>,
    clients: HashMap<ClientId, (Client, Role)>,
    next_client: ClientId,
    sessions: HashMap<u32, Session>,
    ended_sessions: kept::Ended,
    /// Byte streams to servers in the guest.
    streams: HashMap<u32, GuestStream>,
    /// The next number of a session or byte stream.
    next_session: u32,
    workload: Workload,
    /// See [`Live::disk_made`].
    disk_made: Option<SystemTime>,
    /// What is to be done for later starts.
    after: Box<dyn AfterStart>,
    /// Serves the guest's network interface, as long as this lives.
    network: Option<Network>,
    network_changes: network::NetworkChanges,
    /// A network that is joined or left.
    membership: Option<membership::UnderWay>,
    /// Reads the machine's memory ahead; returns what went wrong.
    read_ahead: Option<JoinHandle<Vec<String>>>,
    stop_stage: stop::StopStage,
    /// What ended the workload; none if it ended by itself.
    ended_by: Option<EndedBy>,
    /// Requests that came before the sandbox ran, in their order.
    early: Vec<(ClientId, ClientRequest)>,
    /// Whether the client that asked for the start was gone before the sandbox ran.
    first_is_gone: bool,
    /// Whether the guest runs.
    run_state: RunState,
    /// What is asked of the agent for that.
    wire: Wire,
    idle_trim: IdleTrim,
    leased: Leased,
    /// Clients that wait for a pause, its end or a capture behind the one that is under way.
    waiting: VecDeque<(ClientId, Request)>,
}

/// How a sandbox's life ended.
#[derive(Debug)]
pub(in crate::supervisor) enum End {
    /// The workload ended.
    Exited(ExitStatus),
    /// The machine was lost.
    Failed(Error),
}

/// What starts a switchboard.
pub(in crate::supervisor) struct Parts {
    pub(in crate::supervisor) store: Store,
    pub(in crate::supervisor) entry: Entry,
    pub(in crate::supervisor) paths: SandboxPaths,
    pub(in crate::supervisor) live: Live,
    pub(in crate::supervisor) after: Box<dyn AfterStart>,
    pub(in crate::supervisor) lock: LockFile,
    pub(in crate::supervisor) events: mpsc::Sender<Event>,
    pub(in crate::supervisor) client: Client,
    pub(in crate::supervisor) mode: StartMode,
    pub(in crate::supervisor) early: EarlyClients,
}

impl Switchboard {
    /// Takes over a sandbox that runs, and the clients that have waited for it.
    pub(in crate::supervisor) fn open(
        parts: Parts,
    ) -> std::result::Result<(Self, Vec<OwnedFrame>), (Client, EarlyClients, Error)> {
        let Parts {
            store,
            mut entry,
            paths,
            live,
            after,
            lock,
            events,
            client,
            mode,
            early: waiting,
        } = parts;
        entry.state.status = SandboxStatus::Running;
        entry.state.started_ns = Some(live.started_ns);
        entry.state.finished_ns = None;
        entry.state.machine_pid = Some(live.machine.pid());
        entry.state.backend = Some(live.backend.to_owned());
        entry.state.ports = live
            .network
            .as_ref()
            .map(|network| network.ports().to_vec())
            .unwrap_or_default();
        entry.state.machine_key = Some(live.machine_key);
        entry.state.degraded = live.degraded;
        if !live.machine.discards() {
            entry.state.degraded.push(NO_DISCARD.to_owned());
        }
        let lease = Lease::new(entry.record.spec.lease, Instant::now());
        entry.state.lease = state_of(&lease);
        if let Err(error) = store.set_state(entry.record.id, &entry.state) {
            return Err((client, waiting, error));
        }
        store.note(&entry.record, EventKind::Started);
        let (agent, early) = live.agent.split(events.clone());
        let terminal = entry.record.process.terminal.is_some();
        let mut workload = Workload::new(paths.output(), terminal);
        client.answer(&SupervisorMessage::Started {
            pid: 1,
            session: SESSION_STREAM,
            timeline: live.timeline,
        });
        let role = if mode.attach {
            let tied = mode.when_gone == WhenGone::End;
            let follower = if tied { Follower::Tied } else { Follower::Pace };
            // The first client is never one too many.
            workload.attach(FIRST_CLIENT, mode.stdin, follower);
            Role::Attached
        } else {
            Role::None
        };
        let (next_client, first_is_gone) = (waiting.next(), waiting.first_is_gone);
        let mut clients = HashMap::from([(FIRST_CLIENT, (client, role))]);
        let mut requests = Vec::new();
        for (id, client, request) in waiting.into_clients() {
            clients.insert(id, (client, Role::None));
            requests.extend(request.map(|request| (id, request)));
        }
        let wire = Wire::new(agent.clone());
        let board = Self {
            store,
            entry,
            machine: live.machine,
            lock: Some(lock),
            agent,
            events,
            clients,
            next_client,
            sessions: HashMap::new(),
            ended_sessions: kept::Ended::default(),
            streams: HashMap::new(),
            next_session: SESSION_STREAM + 1,
            workload,
            disk_made: live.disk_made,
            after,
            network: live.network,
            network_changes: network::NetworkChanges::default(),
            membership: None,
            read_ahead: live.read_ahead,
            stop_stage: stop::StopStage::NotAsked,
            ended_by: None,
            early: requests,
            first_is_gone,
            run_state: RunState::default(),
            wire,
            idle_trim: IdleTrim::default(),
            leased: Leased::new(lease),
            waiting: VecDeque::new(),
        };
        Ok((board, early))
    }

    /// Works until the workload has ended or the machine is lost.
    pub(in crate::supervisor) async fn run(
        &mut self,
        early: Vec<OwnedFrame>,
        queue: &mut mpsc::Receiver<Event>,
    ) -> End {
        // A sandbox without input to come must not wait for any.
        if !self.entry.record.spec.stdin {
            self.workload.input.end();
            self.pump_workload_input();
        }
        if self.first_is_gone {
            self.drop_client(FIRST_CLIENT);
        }
        for (id, request) in std::mem::take(&mut self.early) {
            self.obey(id, request);
        }
        for frame in early {
            if let Some(end) = self.on_agent(&frame) {
                return end;
            }
        }
        self.set_lease_timer();
        later(TEMPLATE_DELAY, &self.events, Event::TemplateTime);
        self.watch_disk();
        let machine = self.machine.clone();
        let mut disk_failure = machine.disk_failure();
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
                failure = &mut disk_failure => {
                    self.disk_failed(&failure);
                    // One is enough: the guest's file system does not write again after it.
                    disk_failure = Box::pin(std::future::pending());
                }
                exit = machine.wait() => {
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
                Event::Agent(FromAgent::Lost(_)) => return None,
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
        self.note_use(&event);
        match event {
            Event::Agent(FromAgent::Frame(frame)) => return self.on_agent(&frame),
            Event::Agent(FromAgent::Lost(error)) => return Some(End::Failed(error)),
            Event::Connected(stream) => self.connected(stream),
            Event::Client(id, event) => self.on_client(id, event),
            Event::Terminated => self.stop(None),
            Event::StopTimeout => return self.stop_timeout(),
            Event::ExecTimeLimit(stream) => self.time_limit(stream),
            Event::TemplateTime => self.start_is_over(),
            Event::Degraded(note) => self.degrade(note),
            Event::DiskTime => self.disk_time(),
            Event::Trimming(answer) => self.trim_answered(answer.as_ref()),
            Event::Moment(result) => self.moment_over(result),
            Event::ExecStartTimeout(stream) => self.exec_start_timeout(stream),
            Event::LeaseTime => self.lease_time(),
            Event::Processes(client, answer) => self.processes_answered(client, answer),
            Event::StatusTime(id) => self.status_time(id),
            Event::Network(id, status) => self.network_seen(id, status),
            Event::NetworkChanged(id, changed) => self.network_changed(id, *changed),
            Event::StreamTime(number) => self.stream_time(number),
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
