//! Questions to the agent and their answers, in order.
//!
//! The agent answers each question once and works them off one by one. So the answer that comes
//! belongs to the oldest question that has none, also when nobody waits for it any more.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use cofferdam_proto::{AgentMessage, CONTROL_STREAM, HostMessage, encode_control};
use tokio::sync::oneshot;

use crate::{
    base::error::{Error, ErrorKind, Result},
    link::{Outgoing, SendError},
};

/// Most questions without an answer. Each step that was given up leaves two, so a guest that has
/// been silent through this many will not answer the next one either.
const MAX_OWED: usize = 64;

/// The way to the agent for steps; its clones share the questions.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    queue: Outgoing,
    /// Held for a few instructions, never across an await.
    owed: Arc<Mutex<VecDeque<oneshot::Sender<AgentMessage>>>>,
}

impl Wire {
    pub(super) fn new(queue: Outgoing) -> Self {
        Self {
            queue,
            owed: Arc::default(),
        }
    }

    /// Sends a question. It stays with the agent even if the answer is not waited for.
    ///
    /// # Errors
    /// When the machine has ended, or has not answered far too many questions.
    pub(super) fn ask(&self, question: &HostMessage) -> Result<oneshot::Receiver<AgentMessage>> {
        let mut bytes = Vec::new();
        encode_control(CONTROL_STREAM, question, &mut bytes).map_err(|error| {
            Error::new(ErrorKind::Bug, "A question is too large for the guest").because(error)
        })?;
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.len() >= MAX_OWED {
            return Err(does_not_read());
        }
        self.queue.send_urgent(bytes).map_err(|error| match error {
            SendError::Gone => Error::new(ErrorKind::GuestFailed, "The machine ended meanwhile"),
            SendError::Full => does_not_read(),
        })?;
        let (sender, answer) = oneshot::channel();
        owed.push_back(sender);
        Ok(answer)
    }

    /// Takes a message on the control stream. Returns it when it is an answer for which nobody
    /// waits any more.
    pub(super) fn answered(&self, message: AgentMessage) -> Option<AgentMessage> {
        let is_answer = matches!(
            message,
            AgentMessage::Frozen
                | AgentMessage::Thawed
                | AgentMessage::Dirty { .. }
                | AgentMessage::Trimming { .. }
                | AgentMessage::Processes(_)
                | AgentMessage::Readdressed
                | AgentMessage::Failed(_)
        );
        if !is_answer {
            return None;
        }
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer without a question is the guest's fault and changes nothing.
        owed.pop_front()?.send(message).err()
    }

    /// Whether the agent has not yet answered all.
    pub(super) fn is_owed(&self) -> bool {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        !owed.is_empty()
    }
}

/// The error of a guest that lets more and more messages wait.
pub(super) fn does_not_read() -> Error {
    let what = "The guest has not answered for a long time";
    Error::new(ErrorKind::GuestFailed, what)
}

#[cfg(test)]
mod tests {
    use crate::link::outgoing;

    use super::*;

    #[tokio::test]
    async fn an_answer_belongs_to_the_oldest_question_even_if_that_was_given_up() {
        let (queue, _sent) = outgoing();
        let wire = Wire::new(queue);
        let freeze = HostMessage::Freeze { sync: false };
        drop(wire.ask(&freeze).unwrap());
        let second = wire.ask(&freeze).unwrap();
        assert!(wire.is_owed());
        let adopted = AgentMessage::Adopted;
        assert_eq!(wire.answered(adopted), None);
        assert_eq!(
            wire.answered(AgentMessage::Frozen),
            Some(AgentMessage::Frozen)
        );
        assert_eq!(wire.answered(AgentMessage::Frozen), None);
        assert_eq!(second.await.unwrap(), AgentMessage::Frozen);
        assert!(!wire.is_owed());
        assert_eq!(wire.answered(AgentMessage::Thawed), None);
    }

    #[test]
    fn a_guest_that_never_answers_is_not_asked_for_ever() {
        let (queue, mut sent) = outgoing();
        let wire = Wire::new(queue);
        let question = HostMessage::WriteBack { eager: true };
        let asked = std::iter::from_fn(|| wire.ask(&question).ok()).count();
        assert_eq!(asked, MAX_OWED);
        assert_eq!(std::iter::from_fn(|| sent.try_next()).count(), asked);
    }
}
