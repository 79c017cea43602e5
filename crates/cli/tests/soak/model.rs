//! What a sandbox of the soak test should hold: the host's side of `keeper.rs`.

use std::fmt;

/// Blocks of an area.
const BLOCKS: usize = 128;

/// Areas: the process's heap, a file in memory, a file on the disk.
const AREAS: [&str; 3] = ["heap", "memory file", "disk"];

/// SplitMix64's finaliser; Steele, Lea and Flood, 2014. The same stands in `keeper.rs`.
fn mix(word: u64) -> u64 {
    let mut word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Numbers that are the same for the same seed.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        usize::try_from(mix(self.0) % limit as u64).unwrap()
    }

    /// True once in `times` throws.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// The stamps that a sandbox's blocks should have.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Model {
    areas: [Vec<u64>; 3],
    /// Rounds that were over at some time before.
    rounds: u64,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            areas: AREAS.map(|_| vec![0; BLOCKS]),
            rounds: 0,
        }
    }

    /// What `Keeper::write` does.
    pub(crate) fn write(&mut self, stamp: u64, count: u64) {
        for step in 0..count {
            for (area, stamps) in (0..).zip(&mut self.areas) {
                let block = mix(stamp ^ (step << 8) ^ area) % BLOCKS as u64;
                stamps[usize::try_from(block).unwrap()] = stamp;
            }
        }
    }

    /// What of it a disk alone keeps.
    pub(crate) fn of_disk(&self) -> Self {
        let mut rest = Self::new();
        rest.areas[2].clone_from(&self.areas[2]);
        rest.rounds = self.rounds;
        rest
    }

    /// Compares with what `Keeper::show` answered.
    pub(crate) fn check(&mut self, shown: &str) -> Result<(), String> {
        let lines: Vec<&str> = shown.lines().collect();
        let [heap, memory, disk, direct, rounds] = lines[..] else {
            return Err(format!("shows {} lines: {shown:.200}", lines.len()));
        };
        let areas = AREAS
            .iter()
            .zip(&self.areas)
            .zip([heap, memory, disk])
            .chain([((&"disk past the guest's memory", &self.areas[2]), direct)]);
        for ((area, stamps), line) in areas {
            let found: Vec<&str> = line.split(' ').collect();
            if found.len() != BLOCKS {
                return Err(format!("{area}: {} blocks", found.len()));
            }
            for (block, (stamp, found)) in stamps.iter().zip(found).enumerate() {
                let wanted = format!("{stamp:x}");
                if wanted != found {
                    return Err(format!("{area}, block {block}: {found}, not {wanted}"));
                }
            }
        }
        match u64::from_str_radix(rounds, 16) {
            Ok(rounds) if rounds >= self.rounds => {
                self.rounds = rounds;
                Ok(())
            }
            Ok(found) => Err(format!("{found} rounds after {}", self.rounds)),
            Err(_) => Err(format!("memory and disk of the rounds {rounds}")),
        }
    }
}
