//! Thousands of mutated bundles, and the memory that reading them takes.
//!
//! Alone in its program: it limits the memory of the whole process.

#![allow(clippy::unwrap_used, reason = "tests")]

mod forge;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
};

use cofferdam_disk::{BundleLimits, BundleReader, ErrorKind};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use forge::{HEAD_BYTES, Part, bomb, data, part, put_together, read, small, take_apart};

const CASES: u32 = 20_000;

/// What the process may ask for beyond what it has after a first reading: room for two readers.
const ROOM_BYTES: u64 = 8 << 20;

const LIMITS: BundleLimits = BundleLimits::new(4 << 20);

/// Marsaglia's xorshift64: the same cases in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    /// A byte that is wrong in an interesting way more often than by chance.
    fn byte(&mut self) -> u8 {
        [0, 1, 0x7f, 0x80, 0xff, self.below(256).to_le_bytes()[0]][self.below(6)]
    }

    fn disturb(&mut self, bytes: &mut Vec<u8>) {
        let place = self.below(bytes.len());
        match self.below(6) {
            0 => bytes.insert(place, self.byte()),
            1 => bytes.truncate(place),
            2 if !bytes.is_empty() => drop(bytes.remove(place)),
            3 if !bytes.is_empty() => bytes[place] ^= 1 << self.below(8),
            4 if bytes.len() >= place + 4 => bytes[place..place + 4].fill(self.byte()),
            _ if !bytes.is_empty() => bytes[place] = self.byte(),
            _ => {}
        }
    }

    /// Changes parts, all of which get right seals afterwards.
    fn forge(&mut self, head: &mut [u8], parts: &mut Vec<Part>) {
        let (one, other) = (self.below(parts.len()), self.below(parts.len()));
        match self.below(10) {
            0 => head[8 + self.below(HEAD_BYTES - 8)] = self.byte(),
            1 => parts.swap(one, other),
            2 => drop(parts.remove(one)),
            3 => parts.insert(one, parts[other].clone()),
            4 => parts[one].tag = parts[other].tag,
            5 => parts[one].length = parts[one].length.wrapping_add(1 << self.below(32)),
            _ => {
                self.disturb(&mut parts[one].payload);
                parts[one] = part(&parts[one].tag.clone(), parts[one].payload.clone());
            }
        }
    }
}

/// Bytes of private memory that this process can write to, used or not: what `RLIMIT_DATA` limits;
/// getrlimit(2).
fn data_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

#[test]
fn reading_takes_no_more_memory_whatever_a_bundle_says() {
    let target = memfd_create("target", MemfdFlags::CLOEXEC).unwrap();
    let target = File::from(target);
    read(small().as_slice(), LIMITS, &target).unwrap();
    let limit = getrlimit(Resource::Data);
    let tight = Rlimit {
        current: Some(data_bytes() + ROOM_BYTES),
        ..limit
    };
    // What asks for more than this now ends the program.
    setrlimit(Resource::Data, tight).unwrap();
    mutated_bundles_end_in_typed_errors(&target);
    bombs_are_unpacked_piece_by_piece();
    setrlimit(Resource::Data, limit).unwrap();
}

fn mutated_bundles_end_in_typed_errors(target: &File) {
    let bundle = small();
    let (head, parts) = take_apart(&bundle);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut kinds, mut read_whole) = (BTreeSet::new(), 0);
    for case in 0..CASES {
        let sealed = case % 4 != 0;
        let mutated = if sealed {
            let (mut head, mut parts) = (head.clone(), parts.clone());
            for _ in 0..=dice.below(3) {
                dice.forge(&mut head, &mut parts);
            }
            put_together(&head, &parts)
        } else {
            let mut bytes = bundle.clone();
            dice.disturb(&mut bytes);
            bytes
        };
        match read(mutated.as_slice(), LIMITS, target) {
            Ok(_) => {
                // Under old seals nothing but the very bundle is read.
                assert!(sealed || mutated == bundle, "case {case}");
                read_whole += 1;
            }
            Err(error) => {
                kinds.insert(match error.kind() {
                    ErrorKind::NotABundle => "not a bundle",
                    ErrorKind::Newer { .. } => "newer",
                    ErrorKind::Damaged => "damaged",
                    ErrorKind::TooLarge => "too large",
                    other => panic!("case {case}: {other:?}: {error}"),
                });
            }
        }
    }
    // The mutations were of all sorts, harmless ones among them.
    let all = ["damaged", "newer", "not a bundle", "too large"];
    assert_eq!(kinds, BTreeSet::from(all));
    assert!(read_whole > 100, "{read_whole}");
}

fn bombs_are_unpacked_piece_by_piece() {
    let large = bomb(256);
    let reader = BundleReader::open(large.as_slice(), BundleLimits::new(1 << 30)).unwrap();
    reader.finish().unwrap();
    let (head, mut parts) = take_apart(&small());
    let frame = zstd::encode_all(io::repeat(0).take(256 << 20), 1).unwrap();
    parts[2] = data(&[(1, 1), (3, 1)], &frame);
    let bundle = put_together(&head, &parts);
    let reader = BundleReader::open(bundle.as_slice(), BundleLimits::new(1 << 30)).unwrap();
    assert_eq!(reader.finish().unwrap_err().kind(), ErrorKind::Damaged);
}
