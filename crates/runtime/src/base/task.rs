//! The frame of a process that plays a role: its async runtime and its log.

use std::future::Future;

use super::error::{Result, io};

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| {
            let value = runtime.block_on(future);
            // Blocking tasks hold nothing that matters after this; never wait for one.
            runtime.shutdown_background();
            value
        })
        .map_err(|error| io("Could not start the async runtime", error))
}

/// Writes a line to the process's own log, which its parent opened as standard error.
pub(crate) fn log_line(text: &str) {
    use std::io::Write as _;
    // A log that cannot be written has nobody left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
