//! What a task that talks to a guest speaks with: questions and their answers, with a time limit.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cofferdam_backend::Machine;
use cofferdam_proto::{AgentMessage, HostMessage};
use tokio::sync::oneshot;

use super::wire::Wire;
use crate::{
    base::error::{Error, ErrorKind, Result},
    host::silence,
    link::{Outgoing, refused},
};

/// What a step speaks with: the machine and its agent.
#[derive(Debug)]
pub(super) struct Guest {
    /// Name of the sandbox.
    pub(super) sandbox: String,
    pub(super) machine: Arc<dyn Machine>,
    pub(super) wire: Wire,
    /// All else that the guest is sent; held from a freeze to its thaw.
    pub(super) outbox: Outgoing,
    /// The file of the disk that takes the sandbox's writes.
    pub(super) upper: PathBuf,
    /// See [`crate::supervisor::Live::disk_made`].
    pub(super) disk_made: Option<SystemTime>,
}

impl Guest {
    pub(super) async fn ask(
        &self,
        question: &HostMessage,
        limit: Duration,
    ) -> Result<AgentMessage> {
        self.wait(self.wire.ask(question)?, limit).await
    }

    pub(super) async fn wait(
        &self,
        answer: oneshot::Receiver<AgentMessage>,
        limit: Duration,
    ) -> Result<AgentMessage> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(AgentMessage::Failed(failure))) => Err(refused(&failure)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Error::new(
                ErrorKind::GuestFailed,
                "The machine ended meanwhile",
            )),
            Err(_) => Err(silence::unanswered(
                &self.sandbox,
                self.machine.pid(),
                limit,
            )),
        }
    }
}

pub(super) fn unexpected(answer: &AgentMessage) -> Error {
    let what = format!("The guest gave an answer to another question: {answer:?}");
    Error::new(ErrorKind::GuestFailed, what)
}
