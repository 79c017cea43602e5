//! The journal: order, rotation, gaps, many writers.

use std::thread;

use super::*;
use crate::store::event::EventKind;

fn event(number: u64) -> Event {
    Event {
        time_ns: number,
        kind: EventKind::Oom { kills: number },
        ..Event::missed()
    }
}

fn journal(rotate_bytes: u64) -> (Journal, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal {
        // Made with the first event.
        dir: dir.path().join("events"),
        rotate_bytes,
    };
    (journal, dir)
}

/// The numbers of the events that are there; `None` stands for a gap.
fn rest(reader: &mut JournalReader) -> Vec<Option<u64>> {
    let mut numbers = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        numbers.push(match event.kind {
            EventKind::Oom { kills } => Some(kills),
            EventKind::Missed => None,
            other => panic!("{other:?}"),
        });
    }
    numbers
}

#[test]
fn events_come_back_in_their_order_also_before_there_is_a_file() {
    let (journal, _dir) = journal(ROTATE_BYTES);
    let mut early = JournalReader::open(&journal).unwrap();
    assert_eq!(rest(&mut early), []);
    journal.append(&event(1)).unwrap();
    journal.append(&event(2)).unwrap();
    assert_eq!(rest(&mut early), [Some(1), Some(2)]);
    let mut late = JournalReader::open(&journal).unwrap();
    late.skip_to_end().unwrap();
    journal.append(&event(3)).unwrap();
    assert_eq!(rest(&mut late), [Some(3)]);
    assert_eq!(rest(&mut early), [Some(3)]);
}

#[test]
fn a_reader_crosses_a_rotation_without_loss() {
    let (journal, _dir) = journal(200);
    let mut reader = JournalReader::open(&journal).unwrap();
    let mut all = Vec::new();
    for number in 0..50 {
        journal.append(&event(number)).unwrap();
        if number % 3 == 0 {
            all.extend(rest(&mut reader));
        }
    }
    all.extend(rest(&mut reader));
    assert_eq!(all, (0..50).map(Some).collect::<Vec<_>>());
    assert!(reader.part > 5, "{}", reader.part);
}

#[test]
fn a_reader_that_is_too_slow_gets_the_gap_and_the_rest() {
    let (journal, _dir) = journal(200);
    journal.append(&event(0)).unwrap();
    let mut reader = JournalReader::open(&journal).unwrap();
    for number in 1..50 {
        journal.append(&event(number)).unwrap();
    }
    let all = rest(&mut reader);
    // What its open file still has, then the gap, then what is kept.
    let gap = all.iter().position(Option::is_none).unwrap();
    assert_eq!(all[..gap], (0..gap as u64).map(Some).collect::<Vec<_>>());
    let kept = &all[gap + 1..];
    let first = kept[0].unwrap();
    assert!(first > gap as u64);
    assert_eq!(kept, (first..50).map(Some).collect::<Vec<_>>());
}

#[test]
fn events_of_many_writers_are_whole_and_all_there() {
    let (journal, _dir) = journal(ROTATE_BYTES);
    thread::scope(|scope| {
        for writer in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..50 {
                    journal.append(&event(writer * 50 + number)).unwrap();
                }
            });
        }
    });
    let mut reader = JournalReader::open(&journal).unwrap();
    let mut all: Vec<u64> = rest(&mut reader).into_iter().map(Option::unwrap).collect();
    all.sort_unstable();
    assert_eq!(all, (0..400).collect::<Vec<_>>());
}

#[test]
fn a_held_lock_stops_no_writer_and_only_defers_a_rotation() {
    let (journal, _dir) = journal(100);
    journal.append(&event(0)).unwrap();
    let held = LockFile::try_exclusive(&journal.dir.join("lock"))
        .unwrap()
        .unwrap();
    for number in 1..5 {
        journal.append(&event(number)).unwrap();
    }
    assert!(!journal.previous().exists());
    drop(held);
    journal.append(&event(5)).unwrap();
    assert!(journal.previous().exists());
    let mut reader = JournalReader::open(&journal).unwrap();
    assert_eq!(rest(&mut reader), (0..6).map(Some).collect::<Vec<_>>());
}

#[test]
fn what_is_cut_or_too_long_is_a_gap() {
    let (journal, _dir) = journal(ROTATE_BYTES);
    journal.append(&event(0)).unwrap();
    let mut file = journal.open_for_append().unwrap();
    file.write_all(b"{\"time_ns\":1,\n").unwrap();
    let long = vec![b' '; MAX_LINE_BYTES + 10];
    file.write_all(&long).unwrap();
    file.write_all(b"\n").unwrap();
    journal.append(&event(1)).unwrap();
    let mut reader = JournalReader::open(&journal).unwrap();
    assert_eq!(rest(&mut reader), [Some(0), None, None, Some(1)]);
}
