//! What a guest is told to trim, and the trim of one that is to become a template.

use std::{fs::File, io, path::Path, time::Duration};

use cofferdam_disk::data_ranges;
use cofferdam_proto::{AgentMessage, CONTROL_STREAM, DiskPart, HostMessage};

use super::AgentLink;
use crate::base::error::{Result, io as io_error};

/// Bytes of a block group, of which the guest's kernel remembers that it was trimmed.
const GROUP_BYTES: u64 = 128 << 20;

/// Most parts in a message; those of a larger disk are named as one.
const MAX_PARTS: usize = 1024;

/// How often the maker of a template asks whether a trim is over.
const WAIT: Duration = Duration::from_millis(10);

/// The groups of a disk's file that hold anything.
pub(crate) fn parts(upper: &Path) -> io::Result<Vec<DiskPart>> {
    let file = File::open(upper)?;
    let length = file.metadata()?.len();
    let ranges: io::Result<Vec<_>> = data_ranges(&file, length, GROUP_BYTES).collect();
    let parts = ranges?.into_iter().map(|range| DiskPart {
        start: range.start,
        bytes: range.end - range.start,
    });
    let parts: Vec<DiskPart> = parts.collect();
    Ok(match (parts.first(), parts.last()) {
        (Some(first), Some(last)) if parts.len() > MAX_PARTS => vec![DiskPart {
            start: first.start,
            bytes: last.start + last.bytes - first.start,
        }],
        _ => parts,
    })
}

/// Asks how much is used, and whether a trim is over.
pub(crate) const fn status_question() -> HostMessage {
    HostMessage::Trim {
        parts: Vec::new(),
        commit: false,
    }
}

impl AgentLink {
    /// Has the guest trim what it has deleted of the disk `upper`; waits until it has.
    ///
    /// # Errors
    /// When the disk's file cannot be read, or the guest cannot trim.
    pub(crate) async fn trim(&mut self, upper: &Path) -> Result<()> {
        let parts = parts(upper).map_err(|error| io_error("Could not look at the disk", error))?;
        let mut question = HostMessage::Trim {
            parts,
            commit: true,
        };
        loop {
            self.send(&[(CONTROL_STREAM, question)]).await?;
            let runs = self.expect(CONTROL_STREAM, |message| match message {
                AgentMessage::Trimming { running, .. } => Some(*running),
                _ => None,
            });
            if !runs.await? {
                return Ok(());
            }
            question = status_question();
            tokio::time::sleep(WAIT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_parts_of_a_disk_are_the_groups_that_hold_anything() {
        use std::os::unix::fs::FileExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper");
        let file = cofferdam_disk::create_sparse(&path, 10 * GROUP_BYTES + MIB).unwrap();
        assert_eq!(parts(&path).unwrap(), []);
        file.write_all_at(b"x", 3 * GROUP_BYTES + 5 * MIB).unwrap();
        file.write_all_at(b"x", 10 * GROUP_BYTES).unwrap();
        let part = |group, bytes| DiskPart {
            start: group * GROUP_BYTES,
            bytes,
        };
        assert_eq!(parts(&path).unwrap(), [part(3, GROUP_BYTES), part(10, MIB)]);
    }
}
