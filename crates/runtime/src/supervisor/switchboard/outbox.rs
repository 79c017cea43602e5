//! What the guest is sent, held back while it is frozen.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// The way to the agent for all but the steps of a pause or capture; its clones are one.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    /// Locked for a few instructions, never across an await.
    held: Arc<Mutex<Option<Vec<Vec<u8>>>>>,
}

impl Outbox {
    pub(super) fn new(queue: mpsc::UnboundedSender<Vec<u8>>) -> Self {
        Self {
            queue,
            held: Arc::default(),
        }
    }

    /// Sends or holds. What is held is bounded: input by its windows, all else by the clients.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.push(bytes),
            // A closed queue means that the machine is gone; its event is under way.
            None => drop(self.queue.send(bytes)),
        }
    }

    /// From now on nothing is sent.
    pub(super) fn hold(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get_or_insert_default();
    }

    /// Sends what was held, and all that comes.
    pub(super) fn release(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for bytes in held.take().unwrap_or_default() {
            // As above.
            drop(self.queue.send(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_goes_out_in_order_before_what_comes_later() {
        let (queue, mut sent) = mpsc::unbounded_channel();
        let outbox = Outbox::new(queue);
        outbox.clone().hold();
        for byte in 1..=2 {
            outbox.send(vec![byte]);
        }
        assert!(sent.try_recv().is_err());
        outbox.hold();
        outbox.clone().release();
        outbox.send(vec![3]);
        let sent: Vec<_> = std::iter::from_fn(|| sent.try_recv().ok()).collect();
        assert_eq!(sent, [[1], [2], [3]]);
    }
}
