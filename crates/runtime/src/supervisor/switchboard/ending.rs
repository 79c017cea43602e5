//! The end of a sandbox's life: its record, and the answers to its clients.

use std::time::Duration;

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::SupervisorMessage;
use cofferdam_types::{ExitStatus, SandboxStatus, Signal};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{End, Role, Switchboard};
use crate::{
    base::error::to_remote,
    store::event::EventKind,
    supervisor::event::{ClientEvent, Event},
};

/// How long clients that have read all of the output may take to read their answer and leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long clients that have not may read nothing: as long as a person looks at a page. What
/// they miss is in the log.
const READ_TIMEOUT: Duration = Duration::from_secs(3600);

impl Switchboard {
    /// Ends the network, so that its ports of the host and its numbers are free.
    ///
    /// # Blocking
    /// Until the stack has ended, a second at most.
    pub(in crate::supervisor) fn close_network(&mut self) {
        self.network = None;
    }

    /// Tells every client how it ended. The network is closed before that: a client may use its
    /// ports again at once.
    pub(in crate::supervisor) fn tell_all(&mut self, end: &End) {
        let answer = match end {
            End::Exited(status) => SupervisorMessage::Exited { status: *status },
            End::Failed(error) => SupervisorMessage::Failed(to_remote(error)),
        };
        let warnings = match end {
            End::Exited(status) => self.warnings(0, *status),
            End::Failed(_) => Vec::new(),
        };
        let lease = self.lease_warning().map(SupervisorMessage::Warning);
        let killed = SupervisorMessage::Exited {
            status: ExitStatus::Signal(Signal::KILL.number()),
        };
        for (id, (client, role)) in &mut self.clients {
            match role {
                Role::Attached => {
                    warnings.iter().for_each(|warning| client.answer(warning));
                    self.workload.tell_end(client, *id, &answer);
                }
                // A stream ends with the sandbox, whatever ended that.
                Role::Waiter | Role::Stream(_) => client.answer(&answer),
                Role::Session(_) => {
                    lease.iter().for_each(|warning| client.answer(warning));
                    client.answer(&killed);
                }
                Role::Stopper | Role::StatusWatcher(_) => client.answer(&SupervisorMessage::Done),
                Role::None => {}
            }
        }
        self.clients.retain(|_, (_, role)| *role != Role::None);
    }

    /// Waits until the clients have read their answers and left. One that has everything and does
    /// not leave, or still has something to read and reads nothing, is not waited for for ever.
    pub(in crate::supervisor) async fn linger(mut self, queue: &mut mpsc::Receiver<Event>) {
        let mut progress = Instant::now();
        while !self.clients.is_empty() {
            let limit = match self.clients.values().all(|(client, _)| client.has_all()) {
                true => CLOSE_TIMEOUT,
                false => READ_TIMEOUT,
            };
            let Ok(Some(event)) = timeout_at(progress + limit, queue.recv()).await else {
                return;
            };
            match event {
                Event::Client(id, ClientEvent::Gone) => {
                    self.clients.remove(&id);
                    progress = Instant::now();
                }
                Event::Client(id, ClientEvent::Credit { channel, bytes }) => {
                    if let Some((client, role)) = self.clients.get_mut(&id)
                        && client.credit(channel, bytes)
                        && *role == Role::Attached
                    {
                        self.workload.has_read(client, id, (channel, bytes));
                        progress = Instant::now();
                    }
                }
                _ => {}
            }
        }
    }

    pub(in crate::supervisor) fn finished(&mut self, end: &End) {
        let state = &mut self.entry.state;
        state.finished_ns = Some(unix_time_ns());
        state.supervisor_pid = None;
        state.machine_pid = None;
        state.ended_by = self.ended_by;
        state.lease = None;
        state.ports = Vec::new();
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
        let died = EventKind::died(&self.entry.state);
        self.store.note(&self.entry.record, died);
    }
}
