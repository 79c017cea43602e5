//! What a start leaves to do for later ones: a record of what it touched, its image's template, and
//! a standby in place of the one that it took.

use std::sync::Arc;

use cofferdam_backend::{BoxFuture, Machine};

use super::{
    automatic::{is_automatic, keep_one, remove_if_empty},
    fill::spawn_fill,
};
use crate::{
    base::error::Result,
    start::ForTemplates,
    store::{Entry, Store},
    supervisor::{AfterStart, Recorded},
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
            Some(name) if !is_automatic(&name) => return spawn_fill(layout, &name),
            // It may get no other standby: the settings may have changed.
            Some(name) => remove_if_empty(layout, &name),
            None => {}
        }
        if automatic {
            return keep_one(layout, entry, self.backend);
        }
        Ok(())
    }

    fn make_template(&mut self, store: &Store) -> Result<()> {
        let Some(wanted) = self.templates.wanted.take() else {
            return Ok(());
        };
        template::spawn_image_build(store.layout(), self.backend, &wanted.guest, &wanted.plan)
    }
}

impl AfterStart for ForLaterStarts {
    fn record(&mut self, machine: Arc<dyn Machine>) -> BoxFuture<'static, Recorded> {
        let recording = self.templates.recording.take();
        let record = async move {
            let Some(recording) = recording else {
                return Ok(None);
            };
            let Some(touched) = recording.look(machine.as_ref()).await? else {
                return Ok(None);
            };
            touched.add().await.map(Some)
        };
        Box::pin(async move {
            let recorded: Result<_> = record.await;
            match recorded {
                Ok(wait) => Recorded {
                    wait: wait.map(|wait| Box::new(wait) as Box<dyn FnOnce() + Send>),
                    failure: None,
                },
                Err(error) => Recorded {
                    failure: Some(format!("No working set was recorded: {}", error.chain())),
                    ..Recorded::default()
                },
            }
        })
    }

    fn make_ready(&mut self, store: &Store, entry: &Entry) -> Vec<String> {
        let standby = self.make_standby(store, entry);
        let template = self.make_template(store);
        let failed = |what: &str, result: Result<()>| {
            let error = result.err()?;
            Some(format!("{what}: {}", error.chain()))
        };
        let standby = failed("No standby is made for the next start", standby);
        let template = failed("No image template is made", template);
        standby.into_iter().chain(template).collect()
    }
}
