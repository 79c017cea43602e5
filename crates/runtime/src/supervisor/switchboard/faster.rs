//! What makes later starts faster: the record of this one, the image's template, a standby.
//!
//! None of it is a reason to stop a sandbox. What cannot be done is noted in the sandbox's state
//! (`degraded`) for as long as the supervisor owns that, and in the supervisor's log.

use std::sync::Arc;

use cofferdam_backend::BoxFuture;

use super::Switchboard;
use crate::{
    base::task::log_line,
    host::silence,
    supervisor::{event::Event, live::Recorded},
};

impl Switchboard {
    /// The start is over and some time has passed: records it and makes the next one faster.
    pub(super) fn start_is_over(&mut self) {
        let record = self.record_start();
        let (read_ahead, events) = (self.read_ahead.take(), self.events.clone());
        tokio::spawn(async move {
            let recorded = record.await;
            let read_ahead = match read_ahead {
                Some(task) => task.await.unwrap_or_default(),
                None => Vec::new(),
            };
            for note in read_ahead.into_iter().chain(recorded.failure) {
                // The queue is closed only when the supervisor ends.
                let _ = events.send(Event::Degraded(note)).await;
            }
            if let Some(wait) = recorded.wait {
                let _ = tokio::task::spawn_blocking(wait).await;
            }
        });
        for note in self.make_ready_for_the_next() {
            self.degrade(note);
        }
    }

    /// Notes that something could not be done, in the state on the disk too.
    pub(super) fn degrade(&mut self, note: String) {
        self.degraded(note);
        self.save_state();
    }

    /// Notes that something could not be done. The caller writes the state.
    pub(in crate::supervisor) fn degraded(&mut self, note: String) {
        log_line(&note);
        self.entry.state.degraded.push(note);
    }

    /// Notes what went wrong with the reading ahead of memory, if that is over.
    pub(in crate::supervisor) async fn look_at_read_ahead(&mut self) {
        if let Some(task) = self.read_ahead.take_if(|task| task.is_finished()) {
            for note in task.await.unwrap_or_default() {
                self.degraded(note);
            }
        }
    }

    /// Records what the machine's start has touched, once, if anybody wants to know.
    pub(in crate::supervisor) fn record_start(&mut self) -> BoxFuture<'static, Recorded> {
        // A machine whose process is stopped says nothing, and is about to be killed.
        if silence::is_stopped(self.machine.pid()) {
            return Box::pin(std::future::ready(Recorded::default()));
        }
        self.after.record(Arc::clone(&self.machine))
    }

    /// Orders what the next start of this image is quicker with; returns what could not be ordered.
    pub(in crate::supervisor) fn make_ready_for_the_next(&mut self) -> Vec<String> {
        self.after.make_ready(&self.store, &self.entry)
    }
}
