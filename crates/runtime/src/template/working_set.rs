//! What the machines of a template use of its memory: recorded by the first of them, read ahead
//! by all that follow.
//!
//! A template's file holds all that its guest remembers; a start touches a part of that. When the
//! file has to come from the disk, that part is what a start waits for. It lies beside the
//! manifest, belongs to the template and goes with it.
//!
//! Invariant: the record is advice. One that is damaged or foreign costs time and nothing else.

use std::ops::Range;

use cofferdam_backend::Machine;
use cofferdam_base::fs;
use serde::{Deserialize, Serialize};

use super::Template;
use crate::error::{Result, io, lift};

/// Starts that are looked at: not all touch the same, and later ones hardly more.
const STARTS: u32 = 4;

/// Reads go through the disk in pieces of this many bytes, whatever is asked for; a record in
/// smaller ones would be longer for nothing.
const GRAIN_BYTES: u64 = 64 << 10;

/// A record's largest size in bytes. 1 GiB that is touched in every second grain has 8192 ranges
/// of some 24 bytes.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Starts that went into it.
    starts: u32,
    /// First byte and the one after the last, in order and apart.
    ranges: Vec<(u64, u64)>,
}

/// The start of a machine that a template's record still wants.
#[derive(Debug)]
pub(crate) struct Recording {
    template: Template,
    memory_bytes: u64,
}

impl Template {
    /// What to read ahead; `None` where nothing is known yet.
    pub(crate) fn working_set(&self, memory_bytes: u64) -> Option<Vec<Range<u64>>> {
        let record = self.record(memory_bytes)?;
        let range = |(start, end)| start..end;
        Some(record.ranges.into_iter().map(range).collect())
    }

    /// What to record about a machine of it; `None` when enough is known.
    pub(crate) fn recording(&self, memory_bytes: u64) -> Option<Recording> {
        let known = self.record(memory_bytes);
        known.is_none_or(|r| r.starts < STARTS).then(|| Recording {
            template: self.clone(),
            memory_bytes,
        })
    }

    fn record(&self, memory_bytes: u64) -> Option<Record> {
        let path = self.dir.join("working-set.json");
        let record: Record = fs::read_json(&path, MAX_BYTES).ok()?;
        record.is_sound(memory_bytes).then_some(record)
    }
}

impl Recording {
    /// Adds what a machine has touched until now to its template's record.
    ///
    /// # Errors
    /// When the machine has ended or the record cannot be written.
    pub(crate) async fn take(self, machine: &dyn Machine) -> Result<()> {
        let Some(touched) = lift(machine.touched_memory().await)? else {
            return Ok(());
        };
        let known = self.template.record(self.memory_bytes);
        let record = Record::of(known, &touched, self.memory_bytes);
        let path = self.template.dir.join("working-set.json");
        // Worthless after a power cut; the next start makes it anew.
        let text = serde_json::to_vec(&record).unwrap_or_default();
        fs::publish_volatile(&path, &text)
            .map_err(|error| io("Could not record what a start touched", error))
    }
}

impl Record {
    fn of(known: Option<Self>, touched: &[Range<u64>], memory_bytes: u64) -> Self {
        let (starts, known) = known.map_or((0, Vec::new()), |r| (r.starts, r.ranges));
        let coarse = touched.iter().map(|range| {
            let start = range.start / GRAIN_BYTES * GRAIN_BYTES;
            let end = range.end.next_multiple_of(GRAIN_BYTES);
            (start, end.min(memory_bytes))
        });
        let mut all: Vec<(u64, u64)> = known.into_iter().chain(coarse).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (start, end) in all {
            match ranges.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => ranges.push((start, end)),
            }
        }
        Self {
            starts: starts + 1,
            ranges,
        }
    }

    fn is_sound(&self, memory_bytes: u64) -> bool {
        let apart = self.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        let forward = self.ranges.iter().all(|(start, end)| start < end);
        let within = self.ranges.last().is_none_or(|r| r.1 <= memory_bytes);
        apart && forward && within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn template() -> (tempfile::TempDir, Template) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().to_owned();
        (home, Template { dir })
    }

    fn write(template: &Template, text: &str) {
        std::fs::write(template.dir.join("working-set.json"), text).unwrap();
    }

    #[test]
    fn starts_add_up_in_whole_grains() {
        let first = Record::of(None, &[4096..8192, MIB..MIB + 1], 2 * MIB);
        let grain = GRAIN_BYTES;
        assert_eq!(first.ranges, [(0, grain), (MIB, MIB + grain)]);
        let second = Record::of(
            Some(first),
            &[grain..grain + 1, 5 * grain..6 * grain],
            2 * MIB,
        );
        assert_eq!(second.starts, 2);
        assert_eq!(
            second.ranges,
            [(0, 2 * grain), (5 * grain, 6 * grain), (MIB, MIB + grain)]
        );
        assert!(second.is_sound(2 * MIB));
    }

    #[test]
    fn a_record_ends_with_the_memory() {
        let record = Record::of(None, &[0..4096, 8192..12288], 12288);
        assert_eq!(record.ranges, [(0, 12288)]);
    }

    #[test]
    fn enough_starts_are_enough() {
        let (_home, template) = template();
        assert!(template.recording(MIB).is_some());
        assert_eq!(template.working_set(MIB), None);
        write(&template, r#"{"starts":1,"ranges":[[0,1],[5,9]]}"#);
        assert!(template.recording(MIB).is_some());
        assert_eq!(template.working_set(MIB), Some(vec![0..1, 5..9]));
        write(&template, r#"{"starts":4,"ranges":[[0,65536]]}"#);
        assert!(template.recording(MIB).is_none());
    }

    #[test]
    fn a_damaged_record_is_none() {
        let (_home, template) = template();
        for text in [
            "",
            "{}",
            r#"{"starts":1,"ranges":[[0,65536]],"more":1}"#,
            r#"{"starts":1,"ranges":[[65536,0]]}"#,
            r#"{"starts":1,"ranges":[[0,2],[1,3]]}"#,
            r#"{"starts":1,"ranges":[[0,1048577]]}"#,
            r#"{"starts":1,"ranges":[[-1,5]]}"#,
        ] {
            write(&template, text);
            assert_eq!(template.working_set(MIB), None, "{text}");
        }
    }
}
