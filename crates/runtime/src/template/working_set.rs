//! What the machines of a template use of its memory: recorded by the first of them, read ahead
//! by all that follow.
//!
//! A template's file holds all that its guest remembers; a start touches a part of that. When the
//! file has to come from the disk, that part is what a start waits for. The record lies beside
//! the manifest, comes after the template was published, and goes with it.
//!
//! Invariant: the record is advice. One that is damaged or foreign costs time and nothing else;
//! the sandbox that finds it damaged says so.

use std::ops::Range;

use cofferdam_backend::Machine;
use cofferdam_base::fs;
use serde::{Deserialize, Serialize};

use super::{Manifest, Template};
use crate::base::error::{Error, ErrorKind, Result, io, lift};

const FILE: &str = "working-set.json";

/// Starts that are looked at: not all do the same. Of one command's, the first touched 16 MiB and
/// the next three together 1 MiB more.
const STARTS: u32 = 4;

/// The kernel maps pages of a file around a fault in windows of this many bytes (Linux
/// `mm/memory.c`, `fault_around_bytes`): what was touched is not known any finer.
const GRAIN_BYTES: u64 = 64 << 10;

/// A record's largest size in bytes. 1 GiB that is touched in every second grain has 8192 ranges
/// of some 24 bytes.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// When its template was made, in nanoseconds since 1970. Another one of the same key may
    /// have taken its place since.
    of: u64,
    /// Starts that went into it.
    starts: u32,
    /// First byte and the one after the last, in order and apart.
    ranges: Vec<(u64, u64)>,
}

/// The start of a machine that a template's record still wants.
#[derive(Debug)]
pub(crate) struct Recording {
    template: Template,
    of: u64,
}

/// What a start has touched, for its template's record.
#[derive(Debug)]
pub(crate) struct TouchedMemory {
    recording: Recording,
    ranges: Vec<Range<u64>>,
}

impl Template {
    /// What to read ahead; `None` where nothing is known yet.
    ///
    /// # Errors
    /// When its record is damaged.
    pub(crate) fn working_set(&self) -> Result<Option<Vec<Range<u64>>>> {
        let record = self.record(&self.manifest()?)?;
        let range = |(start, end)| start..end;
        Ok(record.map(|record| record.ranges.into_iter().map(range).collect()))
    }

    /// What to record about a machine of it; `None` when enough is known.
    pub(crate) fn recording(&self) -> Option<Recording> {
        let manifest = self.manifest().ok()?;
        // A damaged record is made anew.
        let known = self.record(&manifest).unwrap_or_default();
        known.is_none_or(|r| r.starts < STARTS).then(|| Recording {
            template: self.clone(),
            of: manifest.created_ns,
        })
    }

    /// The record of this very template, if there is one.
    fn record(&self, manifest: &Manifest) -> Result<Option<Record>> {
        let record: Record = match fs::read_json(&self.dir.join(FILE), MAX_BYTES) {
            Ok(record) => record,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("Could not read a working-set record", error)),
        };
        if record.of != manifest.created_ns {
            return Ok(None);
        }
        if record.is_sound(manifest) {
            return Ok(Some(record));
        }
        let what = "A working-set record is damaged";
        Err(Error::new(ErrorKind::BadSnapshot, what))
    }

    /// Adds a start to the record, unless enough are in it or the template is another by now. The
    /// record is not on the disk yet; see [`Self::sync_record`].
    fn add(&self, of: u64, touched: &[Range<u64>]) -> Result<()> {
        let manifest = self.manifest()?;
        let known = self.record(&manifest).unwrap_or_default();
        if manifest.created_ns != of || known.as_ref().is_some_and(|r| r.starts >= STARTS) {
            return Ok(());
        }
        let record = Record::of(known, touched, &manifest);
        fs::publish_json(&self.dir.join(FILE), &record, false)
            .map_err(|error| io("Could not record what a start touched", error))
    }

    /// Waits until the record is on the disk: it is needed after a reboot.
    fn sync_record(&self) -> std::io::Result<()> {
        std::fs::File::open(self.dir.join(FILE))?.sync_all()?;
        fs::sync_dir(&self.dir)
    }
}

impl Recording {
    /// Looks at what a machine has touched until now, which takes milliseconds; `None` where its
    /// backend cannot tell.
    ///
    /// # Errors
    /// When the machine has ended.
    pub(crate) async fn look(self, machine: &dyn Machine) -> Result<Option<TouchedMemory>> {
        let touched = lift(machine.touched_memory().await)?;
        Ok(touched.map(|ranges| TouchedMemory {
            recording: self,
            ranges,
        }))
    }
}

impl TouchedMemory {
    /// Adds it to the template's record, which takes a millisecond. What is returned waits until
    /// the record is on the disk.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) async fn add(self) -> Result<impl FnOnce() + Send + 'static> {
        let Recording { template, of } = self.recording;
        let add = move || template.add(of, &self.ranges).map(|()| template);
        let added = tokio::task::spawn_blocking(add).await;
        let lost = |error| Error::new(ErrorKind::Bug, "A task was lost").because(error);
        let template = added.map_err(lost)??;
        // A record that a power cut takes is made again.
        Ok(move || drop(template.sync_record()))
    }
}

impl Record {
    fn of(known: Option<Self>, touched: &[Range<u64>], manifest: &Manifest) -> Self {
        let (starts, known) = known.map_or((0, Vec::new()), |r| (r.starts, r.ranges));
        let coarse = touched.iter().map(|range| {
            let start = range.start / GRAIN_BYTES * GRAIN_BYTES;
            let end = range.end.next_multiple_of(GRAIN_BYTES);
            (start, end.min(manifest.memory_bytes))
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
            of: manifest.created_ns,
            starts: starts + 1,
            ranges,
        }
    }

    fn is_sound(&self, manifest: &Manifest) -> bool {
        let apart = self.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        let forward = self.ranges.iter().all(|(start, end)| start < end);
        let last = self.ranges.last();
        let within = last.is_none_or(|(_, end)| *end <= manifest.memory_bytes);
        let counted = (1..=STARTS).contains(&self.starts);
        self.of == manifest.created_ns && counted && apart && forward && within
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{MachineShape, TemplateKind},
        *,
    };

    const MIB: u64 = 1 << 20;
    const GRAIN: u64 = GRAIN_BYTES;

    /// Of a template of 1 MiB that was made at `created_ns`.
    fn manifest(created_ns: u64) -> Manifest {
        let shape = MachineShape {
            vcpus: 1,
            memory_mib: 1,
            root_bytes: 0,
            upper_bytes: 0,
            mtu: None,
        };
        Manifest {
            created_ns,
            ..Manifest::new(TemplateKind::Image, Vec::new(), &shape)
        }
    }

    fn template() -> (tempfile::TempDir, Template) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().to_owned();
        let template = Template { dir };
        is_of(&template, 7);
        (home, template)
    }

    fn is_of(template: &Template, created_ns: u64) {
        let path = template.dir.join("manifest.json");
        fs::publish_json(&path, &manifest(created_ns), false).unwrap();
    }

    fn write(template: &Template, text: &str) {
        std::fs::write(template.dir.join(FILE), text).unwrap();
    }

    #[test]
    fn starts_add_up_in_whole_grains() {
        let of = |known, touched: &[Range<u64>]| Record::of(known, touched, &manifest(7));
        let first = of(None, &[4096..8192, 8 * GRAIN..8 * GRAIN + 1]);
        assert_eq!(first.ranges, [(0, GRAIN), (8 * GRAIN, 9 * GRAIN)]);
        let second = of(Some(first), &[GRAIN..GRAIN + 1, 5 * GRAIN..6 * GRAIN]);
        assert_eq!(second.starts, 2);
        assert_eq!(
            second.ranges,
            [
                (0, 2 * GRAIN),
                (5 * GRAIN, 6 * GRAIN),
                (8 * GRAIN, 9 * GRAIN)
            ]
        );
        assert!(second.is_sound(&manifest(7)));
    }

    #[test]
    fn a_record_ends_with_the_memory() {
        let small = Manifest {
            memory_bytes: 12288,
            ..manifest(7)
        };
        let record = Record::of(None, &[0..4096, 8192..12288], &small);
        assert_eq!(record.ranges, [(0, 12288)]);
    }

    #[test]
    fn enough_starts_are_enough_also_when_many_come_at_once() {
        let (_home, template) = template();
        assert_eq!(template.working_set().unwrap(), None);
        let at_once: Vec<Recording> = (0..6).filter_map(|_| template.recording()).collect();
        assert_eq!(at_once.len(), 6);
        for (recording, start) in at_once.iter().zip([0, 2, 4, 6, 8, 10]) {
            let touched = start * GRAIN..start * GRAIN + 1;
            let all = recording.template.add(recording.of, &[touched]);
            all.unwrap();
        }
        let expected: Vec<_> = [0, 2, 4, 6].map(|n| n * GRAIN..(n + 1) * GRAIN).into();
        assert_eq!(template.working_set().unwrap(), Some(expected));
        assert!(template.recording().is_none());
    }

    #[test]
    fn a_machine_of_a_replaced_template_adds_nothing_to_the_new_one() {
        let (_home, template) = template();
        let late = template.recording().unwrap();
        template.add(7, &[0..1, MIB - 1..MIB]).unwrap();
        is_of(&template, 8);
        assert_eq!(template.working_set().unwrap(), None);
        late.template.add(late.of, &[0..1, 2..3]).unwrap();
        assert_eq!(template.working_set().unwrap(), None);
        assert!(template.recording().is_some());
    }

    #[test]
    fn a_damaged_record_is_told_and_made_anew() {
        let (_home, template) = template();
        write(&template, r#"{"of":7,"starts":1,"ranges":[[0,1],[5,9]]}"#);
        assert_eq!(template.working_set().unwrap(), Some(vec![0..1, 5..9]));
        for text in [
            "",
            "{}",
            r#"{"of":7,"starts":1,"ranges":[[0,65536]],"more":1}"#,
            r#"{"of":7,"starts":1,"ranges":[[65536,0]]}"#,
            r#"{"of":7,"starts":1,"ranges":[[0,2],[1,3]]}"#,
            r#"{"of":7,"starts":1,"ranges":[[0,1048577]]}"#,
            r#"{"of":7,"starts":1,"ranges":[[-1,5]]}"#,
            r#"{"of":7,"starts":4294967295,"ranges":[[0,5]]}"#,
            r#"{"of":7,"starts":0,"ranges":[[0,5]]}"#,
        ] {
            write(&template, text);
            assert!(template.working_set().is_err(), "{text}");
            let recording = template.recording().unwrap();
            let touched = [0..GRAIN, 4 * GRAIN..5 * GRAIN];
            template.add(recording.of, &touched).unwrap();
            assert_eq!(template.working_set().unwrap(), Some(touched.to_vec()));
        }
    }

    #[test]
    fn the_record_of_another_template_is_none() {
        let (_home, template) = template();
        write(&template, r#"{"of":6,"starts":1,"ranges":[[0,5]]}"#);
        assert_eq!(template.working_set().unwrap(), None);
        assert!(template.recording().is_some());
    }
}
