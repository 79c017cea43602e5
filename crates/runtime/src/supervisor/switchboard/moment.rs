//! Standing still: pauses, their ends, and captures.
//!
//! Each is a task that talks to the agent and the machine in turn; one at a time, further ones
//! wait. While it stands still nothing is sent to the guest: what would be is held, and goes out
//! when the guest runs again. So a restored copy of the guest has no part of a frame in it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cofferdam_backend::{Capture, CapturePlan, Machine};
use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, Request, SupervisorMessage, encode_control,
};
use cofferdam_types::SandboxStatus;
use tokio::sync::mpsc;

use super::Switchboard;
use crate::{
    error::{Error, ErrorKind, Result, lift, to_remote},
    snapshot::{SnapshotFileName, machine_files},
    supervisor::{
        agent::refused,
        event::{ClientId, Event},
    },
};

/// How long the guest may take to stop or continue its processes. A process that waits for a
/// disk takes as long as the disk.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What standing still was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Pause,
    Unpause,
    Capture,
}

/// One that is under way.
#[derive(Debug)]
pub(super) struct Moment {
    /// Who asked; none when the sandbox is to be stopped.
    client: Option<ClientId>,
    purpose: Purpose,
    /// The agent's answers go here.
    answers: mpsc::UnboundedSender<AgentMessage>,
}

/// How one ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// How long the sandbox stood still.
    still: Duration,
}

/// What the guest is sent, held back while it stands still.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    held: Option<Vec<Vec<u8>>>,
}

impl Outbox {
    pub(super) const fn new(queue: mpsc::UnboundedSender<Vec<u8>>) -> Self {
        Self { queue, held: None }
    }

    /// Sends or holds. What is held is bounded: input by its windows, all else by the clients.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        match &mut self.held {
            Some(held) => held.push(bytes),
            // A closed queue means that the machine is gone; its event is under way.
            None => drop(self.queue.send(bytes)),
        }
    }

    fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    fn release(&mut self) {
        for bytes in self.held.take().unwrap_or_default() {
            self.send(bytes);
        }
    }
}

/// The two that a task speaks with.
struct Guest {
    machine: Arc<dyn Machine>,
    agent: mpsc::UnboundedSender<Vec<u8>>,
    answers: mpsc::UnboundedReceiver<AgentMessage>,
}

impl Switchboard {
    /// Begins what a client asked for, or puts it behind the one that is under way.
    pub(super) fn moment(&mut self, client: ClientId, request: Request) -> Result<()> {
        if self.moment.is_some() {
            self.waiting.push_back((client, request));
            return Ok(());
        }
        let paused = self.paused;
        let name = &self.entry.record.name;
        let wrong = |what: &str| {
            let what = format!("Sandbox `{name}` is {what}");
            Err(Error::new(ErrorKind::WrongState, what))
        };
        match request {
            _ if self.entry.state.status == SandboxStatus::Stopping => wrong("stopping"),
            Request::Pause if paused => wrong("paused already"),
            Request::Unpause if !paused => wrong("not paused")
                .map_err(|error| error.hint(format!("Pause it with `coffer pause {name}`"))),
            Request::Pause => {
                self.begin(Some(client), Purpose::Pause, pause);
                Ok(())
            }
            Request::Unpause => {
                self.begin(Some(client), Purpose::Unpause, unpause);
                Ok(())
            }
            Request::Capture {
                disk_only: true, ..
            } if paused => wrong("paused: what it wrote may not have reached its disk")
                .map_err(|error| error.hint("Unpause it first, or capture its memory too")),
            Request::Capture { dir, disk_only } => {
                let plan = self.plan(Path::new(&dir), disk_only)?;
                self.begin(Some(client), Purpose::Capture, move |guest| {
                    capture(guest, plan, disk_only, paused)
                });
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Bug, "This needs no standing still")),
        }
    }

    /// A paused sandbox that is told to end must run to do so.
    pub(super) fn resume_to_end(&mut self) {
        if self.paused && self.moment.is_none() {
            self.begin(None, Purpose::Unpause, unpause);
        }
    }

    fn begin<F>(
        &mut self,
        client: Option<ClientId>,
        purpose: Purpose,
        task: impl FnOnce(Guest) -> F,
    ) where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let (sender, answers) = mpsc::unbounded_channel();
        self.moment = Some(Moment {
            client,
            purpose,
            answers: sender,
        });
        // From here on nothing may come between the agent and the task.
        self.agent.hold();
        let task = task(Guest {
            machine: self.machine.clone(),
            agent: self.agent.queue.clone(),
            answers,
        });
        let events = self.events.clone();
        tokio::spawn(async move {
            let _ = events.send(Event::Moment(task.await)).await;
        });
    }

    /// What the agent answers to the one under way.
    pub(super) fn moment_answer(&self, message: AgentMessage) {
        if let Some(moment) = &self.moment {
            // A task that has given up needs no answer.
            let _ = moment.answers.send(message);
        }
    }

    pub(super) fn moment_over(&mut self, result: Result<Outcome>) {
        let Some(moment) = self.moment.take() else {
            return;
        };
        match (moment.purpose, &result) {
            (Purpose::Pause, Ok(_)) => {
                self.paused = true;
                self.set_status(SandboxStatus::Paused);
            }
            (Purpose::Unpause, Ok(_)) => {
                self.paused = false;
                self.set_status(SandboxStatus::Running);
            }
            _ => {}
        }
        if !self.paused {
            self.agent.release();
        }
        let answer = match (moment.purpose, result) {
            (_, Err(error)) => SupervisorMessage::Failed(to_remote(&error)),
            (Purpose::Capture, Ok(outcome)) => SupervisorMessage::Captured {
                pause_us: u64::try_from(outcome.still.as_micros()).unwrap_or(u64::MAX),
            },
            (_, Ok(_)) => SupervisorMessage::Done,
        };
        if let Some(client) = moment.client {
            self.answer(client, &answer);
        }
        if self.stop_asked() {
            self.resume_to_end();
        }
        while self.moment.is_none()
            && let Some((client, request)) = self.waiting.pop_front()
        {
            if let Err(error) = self.moment(client, request) {
                self.answer(client, &SupervisorMessage::Failed(to_remote(&error)));
            }
        }
    }

    /// The files of a capture, in a staging directory of the store and nowhere else.
    fn plan(&self, dir: &Path, disk_only: bool) -> Result<CapturePlan> {
        let snapshots = self.store.layout().snapshots();
        if dir.parent() != Some(&snapshots) || !dir.is_dir() {
            let what = format!("`{}` is not a place for a snapshot", dir.display());
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        let upper: PathBuf = dir.join(SnapshotFileName::Upper.as_str());
        Ok(CapturePlan {
            memory: (!disk_only).then(|| machine_files(dir)),
            disks: vec![upper],
        })
    }
}

async fn pause(mut guest: Guest) -> Result<Outcome> {
    let began = Instant::now();
    guest.freeze(false).await?;
    if let Err(error) = lift(guest.machine.pause().await) {
        guest.go_on().await?;
        return Err(error);
    }
    Ok(Outcome {
        still: began.elapsed(),
    })
}

async fn unpause(mut guest: Guest) -> Result<Outcome> {
    let began = Instant::now();
    guest.go_on().await?;
    Ok(Outcome {
        still: began.elapsed(),
    })
}

async fn capture(
    mut guest: Guest,
    plan: CapturePlan,
    disk_only: bool,
    paused: bool,
) -> Result<Outcome> {
    let mut capture = lift(guest.machine.begin_capture(plan).await)?;
    let began = Instant::now();
    if paused {
        lift(capture.take().await)?;
    } else {
        guest.freeze(disk_only).await?;
        let taken = guest.take(capture.as_mut()).await;
        // Whatever happened, the sandbox goes on.
        guest.go_on().await?;
        taken?;
    }
    let still = began.elapsed();
    lift(capture.settle().await)?;
    Ok(Outcome { still })
}

impl Guest {
    async fn take(&self, capture: &mut dyn Capture) -> Result<()> {
        lift(self.machine.pause().await)?;
        lift(capture.take().await)
    }

    async fn freeze(&mut self, sync: bool) -> Result<()> {
        self.ask(&HostMessage::Freeze { sync }, &AgentMessage::Frozen)
            .await
    }

    /// The vCPUs run, then the processes, with the right time.
    async fn go_on(&mut self) -> Result<()> {
        lift(self.machine.resume().await)?;
        let thaw = HostMessage::Thaw {
            unix_ns: unix_time_ns(),
        };
        self.ask(&thaw, &AgentMessage::Thawed).await
    }

    async fn ask(&mut self, message: &HostMessage, wanted: &AgentMessage) -> Result<()> {
        let mut bytes = Vec::new();
        encode_control(CONTROL_STREAM, message, &mut bytes).map_err(|error| {
            Error::new(ErrorKind::Bug, "A message without content is too large").because(error)
        })?;
        let gone = || Error::new(ErrorKind::GuestFailed, "The machine ended meanwhile");
        self.agent.send(bytes).map_err(|_| gone())?;
        let answered = async {
            loop {
                match self.answers.recv().await {
                    Some(AgentMessage::Failed(failure)) => return Err(refused(&failure)),
                    Some(answer) if answer == *wanted => return Ok(()),
                    Some(_) => {}
                    None => return Err(gone()),
                }
            }
        };
        tokio::time::timeout(AGENT_TIMEOUT, answered)
            .await
            .unwrap_or_else(|_| {
                let what = format!("The guest did not answer in {} s", AGENT_TIMEOUT.as_secs());
                Err(Error::new(ErrorKind::GuestFailed, what))
            })
    }
}
