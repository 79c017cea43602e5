//! Reading a sandbox's output log, also while it grows.

use std::path::PathBuf;

use cofferdam_types::SandboxId;

use super::dir_watch::DirWatch;
use crate::{
    base::error::{Result, io},
    store::{
        Store,
        output_log::{LogReader, LogRecord},
    },
};

/// The last `lines` lines of a sandbox's console: what its kernel and agent say, from all its
/// starts, as far as the bounded log goes back.
///
/// # Errors
/// The file system's.
pub fn console_lines(store: &Store, id: SandboxId, lines: usize) -> Result<Vec<String>> {
    let path = store.layout().sandbox(id).console();
    cofferdam_backend::log_files::tail(&path, lines)
        .map_err(|error| io("Could not read the sandbox's console", error))
}

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Go on as long as the sandbox is live.
    pub follow: bool,
    /// Only this many last records' lines; all when absent.
    pub tail: Option<usize>,
    /// Only what came at or after this time, in nanoseconds since the Unix epoch.
    pub since_ns: Option<u64>,
}

/// Yields a log's records.
#[derive(Debug)]
pub struct LogFollower {
    reader: LogReader,
    watch: Option<DirWatch>,
    path: PathBuf,
}

impl LogFollower {
    /// Opens a sandbox's log.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(store: &Store, id: SandboxId, follow: bool) -> Result<Self> {
        let paths = store.layout().sandbox(id);
        let failed = |error| io("Could not read the sandbox's output", error);
        // The watch comes before the first read, so that no change falls between.
        let watch = follow.then(|| DirWatch::open(&paths.dir));
        let watch = watch.transpose().map_err(failed)?;
        let path = paths.output();
        let reader = LogReader::open(&path).map_err(failed)?;
        Ok(Self {
            reader,
            watch,
            path,
        })
    }

    /// The next record that is there now.
    ///
    /// # Errors
    /// A damaged file, or the file system's.
    pub fn next_now(&mut self) -> Result<Option<LogRecord>> {
        let failed = |error| io("Could not read the sandbox's output", error);
        match self.reader.next_record().map_err(failed)? {
            Some(record) => Ok(Some(record)),
            None if self.reader.is_replaced(&self.path).map_err(failed)? => {
                self.reader.reopen(&self.path).map_err(failed)?;
                self.reader.next_record().map_err(failed)
            }
            None => Ok(None),
        }
    }

    /// Waits until something in the sandbox's directory changed. Without `follow`, for ever.
    ///
    /// # Errors
    /// The file system's.
    pub async fn changed(&mut self) -> Result<()> {
        let Some(watch) = &mut self.watch else {
            return std::future::pending().await;
        };
        let failed = |error: std::io::Error| io("Could not watch the sandbox's output", error);
        watch.changed().await.map_err(failed)
    }
}
