//! The ends of QEMU's background jobs, told by events.
//!
//! A job's failure is told before its end: `BLOCK_JOB_COMPLETED` with an error, then
//! `JOB_STATUS_CHANGE` to `null`, after which nothing of the job is left.
//! Source: QEMU `qapi/job.json`, `qapi/block-core.json`.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
};

use cofferdam_backend::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::sync::oneshot;

/// Jobs that are waited for, by their ids.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<HashMap<String, Job>>);

#[derive(Debug)]
struct Job {
    error: Option<String>,
    ended: oneshot::Sender<Option<String>>,
}

/// The end of one job.
#[derive(Debug)]
pub(crate) struct JobEnd(oneshot::Receiver<Option<String>>);

impl JobEnd {
    /// Waits until nothing of the job is left.
    ///
    /// # Errors
    /// The job's, and `Gone` when QEMU ended before the job did.
    ///
    /// # Cancel safety
    /// May be called again.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        match (&mut self.0).await {
            Ok(None) => Ok(()),
            Ok(Some(said)) => Err(Error::new(ErrorKind::Io, "QEMU could not copy a disk")
                .because(io::Error::other(said))),
            Err(_) => Err(Error::new(
                ErrorKind::Gone,
                "QEMU ended before it had copied a disk",
            )),
        }
    }
}

impl Jobs {
    /// To be called before the job is started.
    pub(super) fn watch(&self, id: &str) -> JobEnd {
        let (ended, end) = oneshot::channel();
        let mut jobs = self.lock();
        // Of those that were never started no end is told.
        jobs.retain(|_, job| !job.ended.is_closed());
        jobs.insert(id.to_owned(), Job { error: None, ended });
        JobEnd(end)
    }

    pub(super) fn note(&self, event: &str, data: &Value) {
        let text = |name: &str| data.get(name).and_then(Value::as_str);
        match event {
            "BLOCK_JOB_COMPLETED" => {
                let (Some(id), Some(said)) = (text("device"), text("error")) else {
                    return;
                };
                if let Some(job) = self.lock().get_mut(id) {
                    job.error = Some(said.to_owned());
                }
            }
            "JOB_STATUS_CHANGE" if text("status") == Some("null") => {
                let job = text("id").and_then(|id| self.lock().remove(id));
                if let Some(Job { error, ended }) = job {
                    // Who waited may have gone.
                    let _ = ended.send(error);
                }
            }
            _ => {}
        }
    }

    /// QEMU is gone.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_job_ends_well_or_with_the_error_that_was_told_before() {
        let jobs = Jobs::default();
        let (mut good, mut bad) = (jobs.watch("good"), jobs.watch("bad"));
        jobs.note("BLOCK_JOB_COMPLETED", &json!({"device": "good"}));
        let full = json!({"device": "bad", "error": "No space left on device"});
        jobs.note("BLOCK_JOB_COMPLETED", &full);
        for id in ["good", "bad", "strange"] {
            for status in ["concluded", "null"] {
                jobs.note("JOB_STATUS_CHANGE", &json!({"id": id, "status": status}));
            }
        }
        good.wait().await.unwrap();
        let error = bad.wait().await.unwrap_err();
        assert!(error.chain().contains("No space left"), "{error:?}");
    }

    #[tokio::test]
    async fn a_job_of_a_qemu_that_ended_is_gone() {
        let jobs = Jobs::default();
        let mut job = jobs.watch("job");
        jobs.close();
        assert_eq!(job.wait().await.unwrap_err().kind(), ErrorKind::Gone);
    }
}
