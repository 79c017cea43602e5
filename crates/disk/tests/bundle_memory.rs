//! Thousands of mutated bundles, and the memory that reading them takes.
//!
//! Alone in its program: it looks at the memory of the whole process.

#![allow(clippy::unwrap_used, reason = "tests")]

mod forge;

use std::{collections::BTreeSet, fs::File};

use cofferdam_disk::{BundleLimits, ErrorKind};

use forge::{HEAD_BYTES, Part, part, put_together, read, small, take_apart};

const CASES: u32 = 20_000;

/// What reading may take more than the first time, in KiB: the reader's buffers again, since the
/// allocator may not give back what was freed.
const SLACK_KIB: u64 = 16 << 10;

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

/// Most virtual and most resident memory of this process so far, in KiB; proc_pid_status(5).
fn peaks_kib() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmPeak:", "VmHWM:"].map(|field| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

#[test]
fn mutated_bundles_end_in_typed_errors_and_take_no_memory() {
    let bundle = small();
    let (head, parts) = take_apart(&bundle);
    let target = rustix::fs::memfd_create("target", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let target = File::from(target);
    read(bundle.as_slice(), LIMITS, &target).unwrap();
    let before = peaks_kib();
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
        match read(mutated.as_slice(), LIMITS, &target) {
            Ok(files) => {
                assert!(sealed || mutated == bundle, "case {case}");
                assert!(files.len() <= LIMITS.files && target.metadata().is_ok());
                read_whole += 1;
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::NoSpace, "case {case}: {error:?}");
                kinds.insert(
                    format!("{:?}", error.kind())
                        .split(' ')
                        .next()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
    // The mutations went deep enough to find everything that there is to find.
    let expected = ["Damaged", "Newer", "NotABundle", "TooLarge"].map(str::to_owned);
    assert_eq!(kinds, BTreeSet::from(expected));
    assert!(read_whole > 0 && read_whole < CASES / 4, "{read_whole}");
    for (before, after) in before.into_iter().zip(peaks_kib()) {
        assert!(
            after <= before + SLACK_KIB,
            "{before} KiB became {after} KiB"
        );
    }
}
