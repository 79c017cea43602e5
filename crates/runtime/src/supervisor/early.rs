//! Clients of a sandbox that is being started.
//!
//! The supervisor listens before its machine is up. What wants a running sandbox waits; what ends
//! one cancels the start. So every sandbox that is live has a supervisor that listens.

use std::collections::BTreeMap;

use cofferdam_proto::{
    CLIENT_GENERATION, ClientRequest, Request, StartMode, SupervisorMessage, WhenGone,
};
use cofferdam_types::{ExitStatus, Signal};
use tokio::{net::UnixStream, sync::mpsc};

use super::{
    FIRST_CLIENT,
    client::Client,
    event::{ClientEvent, ClientId, Event},
    live::{AfterStart, Live},
    other_generation,
};
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    store::EndedBy,
};

/// Most clients that wait for a start; further connections are closed.
const MAX_WAITING: usize = 1024;

/// The clients that came during a start, by number, which is their order.
#[derive(Debug)]
pub(super) struct EarlyClients {
    clients: BTreeMap<ClientId, Waiting>,
    next: ClientId,
    /// Whether the client that asked for the start is gone.
    pub(super) first_is_gone: bool,
}

#[derive(Debug)]
struct Waiting {
    client: Client,
    request: Option<ClientRequest>,
}

/// Why there is no live sandbox.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) error: Error,
    /// Set when the start was cancelled.
    pub(super) by: Option<EndedBy>,
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self { error, by: None }
    }
}

/// A machine that runs, and what is to be done after its start.
type Started = (Live, Box<dyn AfterStart>);

/// Brings a sandbox up. Gives up early when a client cancels it, when its own client goes and was
/// to take it along, or when the supervisor has to end.
pub(super) async fn bring_up(
    start: impl Future<Output = Result<Started>>,
    events: &mpsc::Sender<Event>,
    queue: &mut mpsc::Receiver<Event>,
    mode: &StartMode,
    early: &mut EarlyClients,
) -> std::result::Result<Started, NotStarted> {
    super::forward_signals(events);
    tokio::pin!(start);
    loop {
        let event = tokio::select! {
            result = &mut start => return result.map_err(Into::into),
            event = queue.recv() => event,
        };
        let ended = match event {
            Some(Event::Terminated) => Some(EndedBy::Stop),
            Some(Event::Connected(stream)) => {
                early.connected(stream, events);
                None
            }
            Some(Event::Client(FIRST_CLIENT, ClientEvent::Gone)) => {
                early.first_is_gone = true;
                (mode.when_gone != WhenGone::GoOn).then_some(EndedBy::ClientGone)
            }
            // Input and signals that come before there is a workload have nowhere to go yet;
            // clients send them after `Started`.
            Some(Event::Client(FIRST_CLIENT, _)) => None,
            Some(Event::Client(id, event)) => early.on_client(id, event),
            _ => None,
        };
        if let Some(by) = ended {
            return Err(cancelled(by));
        }
    }
}

fn cancelled(by: EndedBy) -> NotStarted {
    NotStarted {
        error: Error::new(ErrorKind::Cancelled, "The start was cancelled"),
        by: Some(by),
    }
}

impl EarlyClients {
    pub(super) fn new() -> Self {
        Self {
            clients: BTreeMap::new(),
            next: FIRST_CLIENT + 1,
            first_is_gone: false,
        }
    }

    /// The number of the next client.
    pub(super) const fn next(&self) -> ClientId {
        self.next
    }

    /// Those that are there, with what they asked for.
    pub(super) fn into_clients(
        self,
    ) -> impl Iterator<Item = (ClientId, Client, Option<ClientRequest>)> {
        self.clients
            .into_iter()
            .map(|(id, waiting)| (id, waiting.client, waiting.request))
    }

    fn connected(&mut self, stream: UnixStream, events: &mpsc::Sender<Event>) {
        let id = self.next;
        self.next += 1;
        if self.clients.len() < MAX_WAITING
            && let Some(client) = Client::accept(id, stream, events.clone())
        {
            let request = None;
            self.clients.insert(id, Waiting { client, request });
        }
    }

    /// Something that a client said; returns why the start is to be cancelled, if it is.
    fn on_client(&mut self, id: ClientId, event: ClientEvent) -> Option<EndedBy> {
        let waiting = self.clients.get_mut(&id)?;
        match event {
            ClientEvent::Request(request)
                if request.generation != CLIENT_GENERATION
                    && !request.request.is_for_every_generation() =>
            {
                let refused = SupervisorMessage::Failed(to_remote(&other_generation()));
                waiting.client.answer(&refused);
                None
            }
            ClientEvent::Request(request) => {
                waiting.client.answer(&SupervisorMessage::Heard);
                let cancels = ends_a_start(&request.request);
                waiting.request = Some(request);
                cancels
            }
            // A client says nothing more before it was answered.
            _ => {
                self.clients.remove(&id);
                None
            }
        }
    }

    /// Answers all of them that the sandbox will not run, and waits until the answers are sent.
    pub(super) async fn tell_all(self, name: &str, not: &NotStarted) {
        for (_, client, request) in self.into_clients() {
            if let Some(request) = request {
                client.answer(&answer(&request.request, name, not));
            }
            client.close().await;
        }
    }
}

/// Whether a request ends a start that is under way, and as what.
fn ends_a_start(request: &Request) -> Option<EndedBy> {
    match request {
        Request::Stop { .. } => Some(EndedBy::Stop),
        Request::Kill { signal } if *signal == Signal::KILL.number() => Some(EndedBy::Kill),
        _ => None,
    }
}

/// What a request on a connection that is not the first may not be.
fn only_at_birth(request: &Request) -> bool {
    matches!(
        request,
        Request::Start(_) | Request::StandBy | Request::Claim { .. } | Request::Retire
    )
}

/// The answer to a request when the sandbox did not come up.
fn answer(request: &Request, name: &str, not: &NotStarted) -> SupervisorMessage {
    let failed = match (request, not.by) {
        (request, _) if ends_a_start(request).is_some() => return SupervisorMessage::Done,
        (Request::Wait, Some(_)) => {
            let status = ExitStatus::Signal(Signal::KILL.number());
            return SupervisorMessage::Exited { status };
        }
        (request, _) if only_at_birth(request) => {
            let what = format!("Sandbox `{name}` was being started by another command");
            Error::new(ErrorKind::WrongState, what)
        }
        (_, Some(_)) => {
            let what = format!("Sandbox `{name}` was stopped while it was starting");
            Error::new(ErrorKind::WrongState, what)
                .hint(format!("Start it with `coffer start {name}`"))
        }
        (_, None) => return SupervisorMessage::Failed(to_remote(&not.error)),
    };
    SupervisorMessage::Failed(to_remote(&failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &SupervisorMessage) -> &str {
        match message {
            SupervisorMessage::Failed(failure) => &failure.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_stop_and_a_kill_cancel_a_start() {
        let stop = Request::Stop { timeout_ms: None };
        assert_eq!(ends_a_start(&stop), Some(EndedBy::Stop));
        assert_eq!(
            ends_a_start(&Request::Kill { signal: 9 }),
            Some(EndedBy::Kill)
        );
        for other in [
            Request::Kill { signal: 15 },
            Request::Wait,
            Request::Pause,
            Request::Status,
        ] {
            assert_eq!(ends_a_start(&other), None, "{other:?}");
        }
    }

    #[test]
    fn clients_that_waited_for_a_start_get_the_reason_why_it_ended() {
        let stopped = cancelled(EndedBy::Stop);
        let attach = Request::Attach { stdin: false };
        let refused = answer(&attach, "web", &stopped);
        assert!(failure(&refused).contains("`web` was stopped while it was starting"));
        assert_eq!(
            answer(&Request::Wait, "web", &stopped),
            SupervisorMessage::Exited {
                status: ExitStatus::Signal(9)
            }
        );
        let failed = NotStarted::from(Error::new(ErrorKind::StartFailed, "No machine"));
        assert_eq!(failure(&answer(&attach, "web", &failed)), "No machine");
        assert_eq!(
            failure(&answer(&Request::Wait, "web", &failed)),
            "No machine"
        );
        let kill = Request::Kill { signal: 9 };
        assert_eq!(answer(&kill, "web", &failed), SupervisorMessage::Done);
    }
}
