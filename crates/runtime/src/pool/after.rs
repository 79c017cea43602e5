//! What a start leaves to do for later ones: a record of what it touched, its image's template, and
//! a standby in place of the one that it took.

use std::sync::Arc;

use cofferdam_backend::{BoxFuture, Machine};

use super::{
    automatic::{is_automatic, keep_one},
    fill::spawn_fill,
};
use crate::{
    base::{error::Result, task::log_line},
    start::ForTemplates,
    store::{Entry, Store},
    supervisor::AfterStart,
    template,
};

/// What is to be done after a start; each part once.
#[derive(Debug)]
pub(crate) struct ForLaterStarts {
    templates: ForTemplates,
    /// The pool that the machine came from.
    pool: Option<String>,
    /// Whether an automatic standby is to follow.
    keeps_standby: bool,
    backend: &'static str,
}

impl ForLaterStarts {
    /// After a start with `backend`'s machine, which came from `pool` if it was a standby's.
    pub(crate) fn new(
        entry: &Entry,
        backend: &'static str,
        templates: ForTemplates,
        pool: Option<String>,
    ) -> Self {
        let record = &entry.record;
        Self {
            templates,
            pool,
            keeps_standby: record.spec.keep_standby && record.forked_from.is_none(),
            backend,
        }
    }

    /// Orders a standby in its pool or in the automatic one.
    fn make_standby(&mut self, store: &Store, entry: &Entry) -> Result<()> {
        let layout = store.layout();
        let automatic = std::mem::take(&mut self.keeps_standby);
        match self.pool.take() {
            Some(name) if !is_automatic(&name) => spawn_fill(layout, &name),
            _ if automatic => keep_one(layout, entry, self.backend),
            _ => Ok(()),
        }
    }

    fn make_template(&mut self, store: &Store) -> Result<()> {
        let Some(wanted) = self.templates.wanted.take() else {
            return Ok(());
        };
        template::spawn_image_build(store.layout(), self.backend, &wanted.guest, &wanted.plan)
    }
}

impl AfterStart for ForLaterStarts {
    fn look(
        &mut self,
        machine: Arc<dyn Machine>,
    ) -> BoxFuture<'static, Option<BoxFuture<'static, ()>>> {
        let recording = self.templates.recording.take();
        Box::pin(async move {
            let touched = recording?.look(machine.as_ref()).await;
            let touched = touched.unwrap_or_else(|error| {
                log_line(&format!("No working set: {}", error.chain()));
                None
            })?;
            let record: BoxFuture<'static, ()> = Box::pin(async {
                if let Err(error) = touched.add().await {
                    log_line(&format!("No working set: {}", error.chain()));
                }
            });
            Some(record)
        })
    }

    fn make_ready(&mut self, store: &Store, entry: &Entry) {
        if let Err(error) = self.make_standby(store, entry) {
            log_line(&format!("No new standby: {}", error.chain()));
        }
        if let Err(error) = self.make_template(store) {
            log_line(&format!("No image template: {}", error.chain()));
        }
    }
}
