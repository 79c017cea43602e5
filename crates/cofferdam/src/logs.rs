//! A sandbox's output as its supervisor kept it.

use std::{collections::VecDeque, time::SystemTime};

use cofferdam_runtime::{LogFollower, LogRecord, Result, system_time_ns};

use crate::Sandbox;

/// What to read of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as long as the sandbox is live.
    pub follow: bool,
    /// Only this many of the last lines; all when absent.
    pub tail: Option<usize>,
    /// Only what came at or after this time.
    pub since: Option<SystemTime>,
    /// Only what came before this time.
    pub until: Option<SystemTime>,
}

/// An open log.
#[derive(Debug)]
pub struct Logs {
    sandbox: Sandbox,
    follower: LogFollower,
    ready: VecDeque<LogRecord>,
    options: LogOptions,
}

impl Logs {
    pub(crate) fn open(sandbox: &Sandbox, options: &LogOptions) -> Result<Self> {
        let store = sandbox.coffer().runtime.store();
        let follower = LogFollower::open(store, sandbox.id(), options.follow)?;
        let mut logs = Self {
            sandbox: sandbox.clone(),
            follower,
            ready: VecDeque::new(),
            options: options.clone(),
        };
        if let Some(lines) = options.tail {
            logs.read_tail(lines)?;
        }
        Ok(logs)
    }

    /// The next record; `None` at the end: of the log, or, when following, of the sandbox.
    ///
    /// # Errors
    /// A damaged file, or the file system's.
    pub async fn next(&mut self) -> Result<Option<LogRecord>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            // Asked before the log is read: what was written before the end is then seen.
            let is_live = self.sandbox.info().is_ok_and(|info| info.status.is_live());
            if let Some(record) = self.next_wanted()? {
                return Ok(Some(record));
            }
            if !self.options.follow || !is_live {
                return Ok(None);
            }
            self.follower.changed().await?;
        }
    }

    fn next_wanted(&mut self) -> Result<Option<LogRecord>> {
        while let Some(record) = self.follower.next_now()? {
            let after = self
                .options
                .since
                .is_none_or(|since| record.time_ns >= system_time_ns(since));
            let before = self
                .options
                .until
                .is_none_or(|until| record.time_ns < system_time_ns(until));
            if after && before {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Reads all there is and keeps the records that hold the last `lines` lines.
    fn read_tail(&mut self, lines: usize) -> Result<()> {
        let mut kept = 0;
        while let Some(record) = self.next_wanted()? {
            kept += newlines(&record);
            self.ready.push_back(record);
            while let Some(first) = self.ready.front() {
                let without = kept - newlines(first);
                if without < lines.saturating_add(1) {
                    break;
                }
                kept = without;
                self.ready.pop_front();
            }
        }
        trim_to_lines(&mut self.ready, lines);
        Ok(())
    }
}

fn newlines(record: &LogRecord) -> usize {
    record.bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Cuts what comes before the last `lines` lines; an unfinished last line counts as one.
fn trim_to_lines(records: &mut VecDeque<LogRecord>, lines: usize) {
    let unfinished = records
        .back()
        .is_some_and(|record| record.bytes.last().is_some_and(|byte| *byte != b'\n'));
    let total: usize = records.iter().map(newlines).sum::<usize>() + usize::from(unfinished);
    let mut surplus = total.saturating_sub(lines);
    while surplus > 0 {
        let Some(first) = records.front_mut() else {
            return;
        };
        match first.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                first.bytes.drain(..=end);
                surplus -= 1;
            }
            None => first.bytes.clear(),
        }
        if first.bytes.is_empty() {
            let done = records.len() == 1;
            records.pop_front();
            if done {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_runtime::Channel;

    use super::*;

    fn records(parts: &[&str]) -> VecDeque<LogRecord> {
        let record = |text: &&str| LogRecord {
            time_ns: 0,
            channel: Channel::Stdout,
            bytes: text.as_bytes().to_vec(),
        };
        parts.iter().map(record).collect()
    }

    fn text(records: &VecDeque<LogRecord>) -> String {
        records
            .iter()
            .map(|record| String::from_utf8_lossy(&record.bytes).into_owned())
            .collect()
    }

    #[test]
    fn a_tail_counts_lines_not_records() {
        for (parts, lines, expected) in [
            (&["a\nb\nc\n"][..], 2, "b\nc\n"),
            (&["a\n", "b", "\nc\n"], 2, "b\nc\n"),
            (&["a\nb"], 1, "b"),
            (&["a\n"], 5, "a\n"),
            (&["a\n", "b\n"], 0, ""),
            (&["ab", "c"], 0, ""),
        ] {
            let mut records = records(parts);
            trim_to_lines(&mut records, lines);
            assert_eq!(text(&records), expected, "{parts:?} {lines}");
        }
    }
}
