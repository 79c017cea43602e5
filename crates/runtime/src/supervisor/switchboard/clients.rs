//! What clients want.

use std::time::Duration;

use cofferdam_proto::{
    CLIENT_GENERATION, Channel, ClientMessage, ClientRequest, ExecOptions, HostMessage, LiveStatus,
    ProcessSpec, Request, SESSION_STREAM, SupervisorMessage,
};
use cofferdam_types::Signal;
use tokio::net::UnixStream;

use super::{MAX_CLIENTS, MAX_SESSIONS, Role, Switchboard, sources::later};
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    host::silence::{self, Part},
    network::Network,
    store::{EndedBy, event::cut_command},
    supervisor::{
        client::Client,
        event::{ClientEvent, ClientId, Event},
        lease::Change,
        other_generation,
        session::Session,
        workload::Follower,
    },
};

/// How long a guest may take to start one more process. It takes milliseconds; the rest is for a
/// host with far more guests than processors.
const EXEC_START_TIMEOUT: Duration = Duration::from_secs(30);

/// Shortest time between two answers about the status; a look costs some ten microseconds.
const LEAST_STATUS_INTERVAL: Duration = Duration::from_millis(100);

impl Switchboard {
    pub(super) fn connected(&mut self, stream: UnixStream) {
        let id = self.next_client;
        self.next_client += 1;
        if self.clients.len() >= MAX_CLIENTS {
            return;
        }
        if let Some(client) = Client::accept(id, stream, self.events.clone()) {
            self.clients.insert(id, (client, Role::None));
        }
    }

    pub(super) fn on_client(&mut self, id: ClientId, event: ClientEvent) {
        let Some(role) = self.clients.get(&id).map(|(_, role)| *role) else {
            return;
        };
        match event {
            ClientEvent::Request(request) => {
                self.answer(id, &SupervisorMessage::Heard);
                self.obey(id, request);
            }
            ClientEvent::Message(ClientMessage::Leave) => self.leave(id, role),
            ClientEvent::Message(ClientMessage::Reset) => self.reset_stream(role),
            ClientEvent::Message(message) => self.session_message(role, &message),
            ClientEvent::Input { bytes, eof } => self.client_input(id, role, &bytes, eof),
            ClientEvent::Credit { channel, bytes } => self.client_credit(id, role, channel, bytes),
            ClientEvent::Gone => self.drop_client(id),
        }
    }

    /// A request that its client knows to have arrived.
    pub(super) fn obey(&mut self, id: ClientId, request: ClientRequest) {
        if let Err(error) = self.request(id, request) {
            self.answer(id, &SupervisorMessage::Failed(to_remote(&error)));
        }
    }

    /// A client that will be gone in a moment: what was to end with it goes on.
    fn leave(&mut self, id: ClientId, role: Role) {
        self.workload.untie(id);
        if let Role::Session(stream) = role
            && let Some(session) = self.sessions.get_mut(&stream)
        {
            session.options.kill_with_client = false;
        }
    }

    fn request(&mut self, id: ClientId, request: ClientRequest) -> Result<()> {
        if request.generation != CLIENT_GENERATION && !request.request.is_for_every_generation() {
            return Err(other_generation());
        }
        match request.request {
            Request::Start(_) | Request::StandBy | Request::Claim { .. } | Request::Retire => {
                Err(Error::new(
                    ErrorKind::WrongState,
                    format!("Sandbox `{}` is already running", self.entry.record.name),
                ))
            }
            Request::Attach { stdin } => {
                if !self.workload.attach(id, stdin, Follower::Guest) {
                    return Err(self.too_many_writers());
                }
                self.set_role(id, Role::Attached);
                let started = SupervisorMessage::Started {
                    pid: 1,
                    session: SESSION_STREAM,
                    timeline: Vec::new(),
                };
                self.answer(id, &started);
                Ok(())
            }
            Request::Exec { process, options } => self.exec(id, process, options),
            Request::Connect(target) => self.connect(id, target),
            Request::Pause
            | Request::Unpause
            | Request::Capture { .. }
            | Request::JoinNetwork { .. }
            | Request::LeaveNetwork(_)
            | Request::ListProcesses => self.moment(id, request.request),
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
                    self.force(EndedBy::Kill);
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
            Request::SetTimeout { timeout_ms, extend } => {
                let timeout = timeout_ms.map(Duration::from_millis);
                self.set_timeout(Change { timeout, extend });
                self.answer(id, &SupervisorMessage::Done);
                Ok(())
            }
            Request::Sessions => {
                let sessions = self.list_sessions();
                self.answer(id, &SupervisorMessage::Sessions(sessions));
                Ok(())
            }
            Request::AttachSession { session, stdin } => self.attach_session(id, session, stdin),
            Request::WatchStatus { interval_ms } => {
                let interval = Duration::from_millis(interval_ms).max(LEAST_STATUS_INTERVAL);
                self.set_role(id, Role::StatusWatcher(interval));
                self.status_time(id);
                Ok(())
            }
            Request::Network => self.show_network(id),
            Request::ChangeNetwork(change) => self.change_network(id, *change),
            Request::Status => {
                let status = self.status()?;
                self.answer(id, &SupervisorMessage::Status(status));
                Ok(())
            }
        }
    }

    /// Refuses while the guest cannot take part.
    pub(super) fn check_runs(&self) -> Result<()> {
        if self.run_state.is_paused() {
            let name = &self.entry.record.name;
            let what = format!("Sandbox `{name}` is paused");
            return Err(Error::new(ErrorKind::WrongState, what)
                .hint(format!("Let it go on with `coffer unpause {name}`")));
        }
        if let Some(error) =
            silence::stopped(Part::Machine, &self.entry.record.name, self.machine.pid())
        {
            return Err(error);
        }
        Ok(())
    }

    pub(super) fn exec(
        &mut self,
        id: ClientId,
        process: ProcessSpec,
        options: ExecOptions,
    ) -> Result<()> {
        self.check_runs()?;
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("A sandbox runs at most {MAX_SESSIONS} commands at once"),
            ));
        }
        let stream = self.next_session;
        let no_input = !process.stdin;
        let wait_all = options.wait_all;
        let command = cut_command(&process.argv);
        self.send(stream, &HostMessage::Exec { process, wait_all })?;
        self.next_session += 1;
        later(
            EXEC_START_TIMEOUT,
            &self.events,
            Event::ExecStartTimeout(stream),
        );
        let mut session = Session::new(id, command, options);
        session.oom_kills_before = self.entry.state.oom_kills;
        if no_input {
            session.input.end();
        }
        if let Some(limit) = options.timeout_ms.map(Duration::from_millis) {
            later(limit, &self.events, Event::ExecTimeLimit(stream));
        }
        self.sessions.insert(stream, session);
        self.set_role(id, Role::Session(stream));
        Ok(())
    }

    /// A process that the guest has not started in time is given up, and killed if it starts later.
    pub(super) fn exec_start_timeout(&mut self, stream: u32) {
        let starting = self.sessions.get(&stream).is_some_and(Session::is_starting);
        if !starting {
            return;
        }
        if self.run_state.is_moving() || self.run_state.is_paused() {
            later(
                EXEC_START_TIMEOUT,
                &self.events,
                Event::ExecStartTimeout(stream),
            );
            return;
        }
        // Whatever the guest says of it later is of no interest: its place is free for another.
        let name = &self.entry.record.name;
        let error = silence::unanswered(name, self.machine.pid(), EXEC_START_TIMEOUT);
        self.answer_session(stream, &SupervisorMessage::Failed(to_remote(&error)));
        self.sessions.remove(&stream);
        let signal = Signal::KILL.number();
        // Messages this small always encode.
        let _ = self.send(stream, &HostMessage::Signal { signal });
        let _ = self.send(stream, &HostMessage::Detach);
    }

    /// A client that watches the status gets the next one.
    pub(super) fn status_time(&mut self, id: ClientId) {
        let Some((_, Role::StatusWatcher(interval))) = self.clients.get(&id) else {
            return;
        };
        later(*interval, &self.events, Event::StatusTime(id));
        // Of a machine that has just ended there is none; its end follows.
        if let Ok(status) = self.status() {
            self.answer(id, &SupervisorMessage::Status(status));
        }
    }

    pub(super) fn status(&self) -> Result<LiveStatus> {
        let metrics = crate::base::error::lift(self.machine.metrics())?;
        Ok(LiveStatus {
            machine_pid: self.machine.pid(),
            cpu_percent: metrics.cpu_percent,
            cpu_time_ms: metrics.cpu_time_ms,
            memory_bytes: metrics.memory_bytes,
            sessions: u32::try_from(self.sessions.len() + 1).unwrap_or(u32::MAX),
            network: self.network.as_ref().map(Network::counters),
        })
    }

    pub(super) fn session_message(&mut self, role: Role, message: &ClientMessage) {
        let stream = match role {
            Role::Attached => SESSION_STREAM,
            Role::Session(stream) => stream,
            _ => return,
        };
        let message = match message {
            ClientMessage::Signal { signal } => HostMessage::Signal { signal: *signal },
            ClientMessage::Resize(size) => HostMessage::Resize(*size),
            // Of the client, not of the process.
            ClientMessage::Leave | ClientMessage::Reset => return,
        };
        // A message this small always encodes.
        let _ = self.send(stream, &message);
    }

    pub(super) fn client_input(&mut self, id: ClientId, role: Role, bytes: &[u8], eof: bool) {
        let result = match role {
            Role::Attached if self.workload.input.is_open_for(id) => {
                let pushed = self.workload.input.push(id, bytes);
                if eof {
                    self.workload.end_input_of(id);
                }
                pushed
            }
            Role::Session(stream) => match self.sessions.get_mut(&stream) {
                Some(session) => {
                    let pushed = session.input.push(id, bytes);
                    if eof {
                        session.input.end();
                    }
                    pushed
                }
                None => Ok(()),
            },
            Role::Stream(number) => self.stream_input(id, number, bytes, eof),
            // Of a client that did not ask to write.
            _ => Ok(()),
        };
        match (result, role) {
            (Err(_), _) => self.drop_client(id),
            (Ok(()), Role::Session(stream)) => self.pump_session_input(stream),
            (Ok(()), _) => self.pump_workload_input(),
        }
    }

    pub(super) fn client_credit(&mut self, id: ClientId, role: Role, channel: Channel, bytes: u32) {
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
                if let Some((client, _)) = self.clients.get_mut(&id) {
                    self.workload.has_read(client, id, (channel, bytes));
                }
                self.give_workload_credit();
            }
            Role::Session(stream) => {
                if let Some(session) = self.sessions.get_mut(&stream) {
                    session.has_read(id, channel, bytes);
                }
                self.give_session_credit(stream);
            }
            Role::Stream(number) if channel == Channel::Stdout => self.stream_read(number, bytes),
            _ => {}
        }
    }

    pub(super) fn drop_client(&mut self, id: ClientId) {
        let Some((_, role)) = self.clients.remove(&id) else {
            return;
        };
        match role {
            Role::Attached => {
                if self.workload.detach(id) {
                    self.force(EndedBy::ClientGone);
                }
                self.pump_workload_input();
                self.give_workload_credit();
            }
            Role::Session(stream) => self.leave_session(stream, id),
            Role::Stream(number) => self.leave_stream(id, number),
            _ => self.network_changes.forget(id),
        }
    }

    /// A session goes on without a client, or ends with it.
    fn leave_session(&mut self, stream: u32, id: ClientId) {
        let Some(session) = self.sessions.get_mut(&stream) else {
            return;
        };
        if !session.detach(id) {
            return;
        }
        let options = session.options;
        if options.kill_with_client && !options.detach {
            let signal = Signal::KILL.number();
            let _ = self.send(stream, &HostMessage::SignalSession { signal });
        }
        if options.keep {
            self.pump_session_input(stream);
            self.give_session_credit(stream);
        } else {
            let _ = self.send(stream, &HostMessage::Detach);
        }
    }

    /// A session goes on without the clients that have only started it.
    pub(super) fn leave_detached(&mut self, stream: u32) {
        let session = self.sessions.get(&stream);
        let clients: Option<Vec<ClientId>> = session.map(|session| session.clients().collect());
        for id in clients.unwrap_or_default() {
            self.set_role(id, Role::None);
            self.leave_session(stream, id);
        }
    }
}
