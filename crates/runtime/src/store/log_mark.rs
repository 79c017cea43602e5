//! Marks in a sandbox's output log: lines of this program's own between those of the workload.
//!
//! A mark is a record of the channel that no output has, standard input.

use std::path::Path;

use cofferdam_base::time::{rfc3339, unix_time_ns};

use crate::{
    base::error::{Result, io},
    store::{
        output_log::{LogWriter, MARK},
        snapshot::SnapshotManifest,
    },
};

/// Writes down that the sandbox goes on from a snapshot: what follows comes after that moment, not
/// after what stands before it.
pub(crate) fn restored(log: &Path, snapshot: &SnapshotManifest) -> Result<()> {
    let name = snapshot.name.clone().unwrap_or_else(|| snapshot.id.short());
    let taken = rfc3339(snapshot.created_ns);
    let text = format!("restored from snapshot `{name}`, taken {taken}\n");
    LogWriter::open(log)
        .and_then(|mut writer| {
            writer
                .append(unix_time_ns(), MARK, text.as_bytes())
                .map(drop)
        })
        .map_err(|error| io("Could not mark the restore in the sandbox's log", error))
}
