//! Reading the journal of events, also while it grows.

use std::task::{Context, Poll};

use super::dir_watch::DirWatch;
use crate::{
    base::error::{Error, Result, io},
    store::{Store, event::Event, journal::JournalReader},
};

/// Yields the events of a store.
#[derive(Debug)]
pub struct EventFollower {
    reader: JournalReader,
    watch: DirWatch,
}

impl EventFollower {
    /// Opens the journal: at its oldest event, or behind its newest one.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(store: &Store, from_oldest: bool) -> Result<Self> {
        let dir = store.layout().events();
        let open = || {
            cofferdam_base::fs::create_private_dir(&dir)?;
            // The watch comes before the first read, so that no change falls between.
            let watch = DirWatch::open(&dir)?;
            let mut reader = JournalReader::open(&store.journal())?;
            if !from_oldest {
                reader.skip_to_end()?;
            }
            Ok(Self { reader, watch })
        };
        open().map_err(failed)
    }

    /// The next event that is there now.
    ///
    /// # Errors
    /// The file system's.
    pub fn next_now(&mut self) -> Result<Option<Event>> {
        self.reader.next_event().map_err(failed)
    }

    /// The next event; pending until there is one.
    ///
    /// # Errors
    /// The file system's.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Event>> {
        loop {
            if let Some(event) = self.next_now()? {
                return Poll::Ready(Ok(event));
            }
            match self.watch.poll_changed(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    io("Could not read the journal of events", error)
}
