//! An attached client that did not keep up: it gets the output from the log, at its own pace.
//!
//! Two files of the log are held open at most, as many as are kept. When a third begins, the
//! oldest goes, and a line in the output says that some is missing.

use std::path::Path;

use cofferdam_proto::{Channel, SupervisorMessage};

use crate::{
    base::task::log_line,
    store::output_log::{LogReader, LogRecord},
    supervisor::client::Client,
};

/// The line in the output where some is missing.
const MISSING: &[u8] = b"\r\n[coffer: some output is missing here; see `coffer logs`]\r\n";

/// Where a client is in the log.
#[derive(Debug)]
pub(super) struct LogReplay {
    /// None when there is no log to read.
    reader: Option<LogReader>,
    /// What was read and did not fit.
    next: Option<LogRecord>,
    misses_some: bool,
    end: Option<SupervisorMessage>,
}

impl LogReplay {
    /// The log from `position` of its newest file on.
    pub(super) fn at(path: &Path, position: Option<u64>) -> Self {
        let open = |position| {
            LogReader::open_at(path, position)
                .inspect_err(|error| log_line(&format!("The output log is unreadable: {error}")))
                .ok()
        };
        let reader = position.and_then(open);
        Self {
            misses_some: reader.is_none(),
            reader,
            next: None,
            end: None,
        }
    }

    /// The log goes on in a new file at `path`.
    pub(super) fn rotated(&mut self, path: &Path) {
        if let Some(reader) = &mut self.reader {
            match reader.add_newer(path) {
                Ok(complete) => self.misses_some |= !complete,
                Err(error) => {
                    log_line(&format!("The output log is unreadable: {error}"));
                    self.reader = None;
                    self.misses_some = true;
                }
            }
        }
    }

    /// The client gets this answer when it has everything.
    pub(super) fn then(&mut self, end: SupervisorMessage) {
        self.end = Some(end);
    }

    /// Sends what the client has room for; true when it has everything that there is.
    pub(super) fn catch_up(&mut self, client: &mut Client, terminal: bool) -> bool {
        if self.misses_some {
            let channel = if terminal {
                Channel::Stdout
            } else {
                Channel::Stderr
            };
            if !client.output(channel, MISSING, false) {
                return false;
            }
            self.misses_some = false;
        }
        loop {
            let record = match self.next.take() {
                Some(record) => record,
                None => match self.read() {
                    Some(record) => record,
                    None => break,
                },
            };
            if !client.output(record.channel, &record.bytes, false) {
                self.next = Some(record);
                return false;
            }
        }
        if let Some(end) = self.end.take() {
            client.answer(&end);
        }
        true
    }

    fn read(&mut self) -> Option<LogRecord> {
        match self.reader.as_mut()?.next_record() {
            Ok(record) => record,
            Err(error) => {
                log_line(&format!("The output log is damaged: {error}"));
                self.reader = None;
                None
            }
        }
    }
}
