//! Pauses, their ends, and captures; what else the guest must not be frozen in.
//!
//! Each is a task ([`steps`]); one at a time, further ones wait. [`RunState`] says what the guest
//! does. From a freeze to its thaw nothing else is sent to the guest: what would be is held in the
//! outbox. So a restored copy of the guest has no part of a frame in it.

use std::path::{Path, PathBuf};

use cofferdam_backend::CapturePlan;
use cofferdam_proto::{AgentMessage, Request, SupervisorMessage};
use cofferdam_types::{NetworkAttachment, SandboxStatus};

use super::{
    Switchboard,
    dialog::Guest,
    membership::Change,
    run_state::{Purpose, RunState, Step},
    steps,
};
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    store::snapshot::{SnapshotFileName, machine_files},
    supervisor::event::{ClientId, Event, Outcome},
};

impl Switchboard {
    /// Begins what a client asked for, or puts it behind the one that is under way.
    pub(super) fn moment(&mut self, client: ClientId, request: Request) -> Result<()> {
        if self.run_state.is_moving() {
            self.waiting.push_back((client, request));
            return Ok(());
        }
        let paused = self.run_state.is_paused();
        let name = &self.entry.record.name;
        let wrong = |what: &str| {
            let what = format!("Sandbox `{name}` is {what}");
            Err(Error::new(ErrorKind::WrongState, what))
        };
        match request {
            _ if self.entry.state.status == SandboxStatus::Stopping => wrong("stopping"),
            Request::ListProcesses if paused => wrong("paused"),
            Request::ListProcesses => {
                self.ask_processes(client);
                Ok(())
            }
            Request::JoinNetwork { .. } | Request::LeaveNetwork(_) if paused => wrong("paused")
                .map_err(|error| error.hint(format!("Let it go on with `coffer unpause {name}`"))),
            Request::JoinNetwork {
                network,
                aliases,
                address,
            } => {
                let asked = NetworkAttachment {
                    network,
                    aliases,
                    address,
                };
                self.change_membership(client, Change::Join(asked))
            }
            Request::LeaveNetwork(name) => self.change_membership(client, Change::Leave(name)),
            Request::Pause if paused => wrong("paused already"),
            Request::Pause => {
                self.begin(Some(client), Purpose::Pause, steps::pause);
                Ok(())
            }
            // Also for one that is not paused: whatever happened before, it runs afterwards.
            Request::Unpause => {
                self.begin(Some(client), Purpose::Unpause, steps::unpause);
                Ok(())
            }
            Request::Capture {
                disk_only: true, ..
            } if paused => wrong("paused: what it wrote may not have reached its disk")
                .map_err(|error| error.hint("Unpause it first, or capture its memory too")),
            Request::Capture { dir, disk_only } => {
                let plan = self.plan(Path::new(&dir), disk_only)?;
                self.begin(Some(client), Purpose::Capture, move |guest| {
                    steps::capture(guest, plan, disk_only, paused)
                });
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Bug, "This needs no standing still")),
        }
    }

    /// A paused sandbox that is told to end must run to do so, and a pause that nobody waited for is
    /// taken back.
    pub(super) fn resume_after_all(&mut self) {
        if self.run_state == RunState::Paused {
            self.begin(None, Purpose::Unpause, steps::unpause);
        }
    }

    pub(super) fn begin<F>(
        &mut self,
        client: Option<ClientId>,
        purpose: Purpose,
        task: impl FnOnce(Guest) -> F,
    ) where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        self.run_state.begin(purpose, client, self.wire.is_owed());
        let task = task(self.guest());
        let events = self.events.clone();
        tokio::spawn(async move {
            let _ = events.send(Event::Moment(task.await)).await;
        });
    }

    /// What a task needs to talk to the guest.
    pub(super) fn guest(&self) -> Guest {
        Guest {
            sandbox: self.entry.record.name.clone(),
            machine: self.machine.clone(),
            wire: self.wire.clone(),
            outbox: self.agent.clone(),
            upper: self.upper(),
            disk_made: self.disk_made,
        }
    }

    /// What the agent answers to a step, also to one that was given up.
    pub(super) fn moment_answer(&mut self, message: AgentMessage) {
        let late = self.wire.answered(message);
        if late == Some(AgentMessage::Thawed) && self.run_state.thawed_late() {
            self.set_standing(SandboxStatus::Running);
            self.agent.release();
            self.lease_after_step(true, false);
        }
    }

    pub(super) fn moment_over(&mut self, result: Result<Outcome>) {
        self.membership = None;
        let is_done = result.is_ok();
        let Some(step) = self.run_state.over(is_done) else {
            return;
        };
        if self.run_state.is_paused() {
            self.set_standing(SandboxStatus::Paused);
        } else {
            if step.was_paused {
                self.set_standing(SandboxStatus::Running);
            }
            self.agent.release();
        }
        // Who asked for this pause has given up, and was told that it failed.
        let is_unknown = step.purpose == Purpose::Pause
            && step
                .client
                .is_some_and(|id| !self.clients.contains_key(&id));
        if let Some(client) = step.client {
            self.answer(client, &self.moment_result(&step, result));
        }
        if self.stop_asked() || is_unknown {
            self.resume_after_all();
        }
        let failed = step.purpose == Purpose::Pause && !is_done;
        self.lease_after_step(step.was_paused, failed);
        while !self.run_state.is_moving()
            && let Some((client, request)) = self.waiting.pop_front()
        {
            if let Err(error) = self.moment(client, request) {
                self.answer(client, &SupervisorMessage::Failed(to_remote(&error)));
            }
        }
    }

    fn moment_result(&self, step: &Step, result: Result<Outcome>) -> SupervisorMessage {
        match (step.purpose, result) {
            (_, Err(error)) => SupervisorMessage::Failed(to_remote(&error)),
            (Purpose::Capture, Ok(outcome)) => SupervisorMessage::Captured {
                pause_us: u64::try_from(outcome.still.as_micros()).unwrap_or(u64::MAX),
            },
            // It ran, and nothing that was asked of its guest before was still to be answered.
            (Purpose::Unpause, Ok(_)) if !step.was_paused && !step.owed => {
                let name = &self.entry.record.name;
                let what = format!("Sandbox `{name}` is not paused");
                let error = Error::new(ErrorKind::WrongState, what)
                    .hint(format!("Pause it with `coffer pause {name}`"));
                SupervisorMessage::Failed(to_remote(&error))
            }
            (_, Ok(_)) => SupervisorMessage::Done,
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
