//! The list of the guest's processes.

use std::time::Duration;

use cofferdam_proto::{
    AgentMessage, HostMessage, MAX_LISTED_PROCESSES, ProcessList, SupervisorMessage,
};

use super::{
    Switchboard,
    dialog::{Guest, unexpected},
};
use crate::{
    base::error::{Result, to_remote},
    supervisor::event::{ClientId, Event},
};

/// How long the guest may take. It takes milliseconds; the rest is for a host with far more guests
/// than processors.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Switchboard {
    /// Asks the guest, which runs and is not about to be frozen.
    pub(super) fn ask_processes(&self, client: ClientId) {
        let guest = self.guest();
        let events = self.events.clone();
        tokio::spawn(async move {
            let answer = Event::Processes(client, ask(&guest).await);
            let _ = events.send(answer).await;
        });
    }

    pub(super) fn processes_answered(&self, client: ClientId, answer: Result<ProcessList>) {
        let answer = match answer {
            Ok(list) => SupervisorMessage::Processes(list),
            Err(error) => SupervisorMessage::Failed(to_remote(&error)),
        };
        self.answer(client, &answer);
    }
}

async fn ask(guest: &Guest) -> Result<ProcessList> {
    match guest.ask(&HostMessage::ListProcesses, TIMEOUT).await? {
        AgentMessage::Processes(mut list) => {
            // What comes from a guest is not believed.
            list.processes.truncate(MAX_LISTED_PROCESSES);
            Ok(list)
        }
        other => Err(unexpected(&other)),
    }
}
