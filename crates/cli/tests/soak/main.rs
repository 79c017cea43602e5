//! Random cycles of write, fork or snapshot, go on, restore or use, compare: the real program, real
//! guests.
//!
//! `COFFER_SOAK_CYCLES` says how many, `COFFER_SOAK_SEED` repeats a run. A failure prints the seed
//! and what was done. Memory is a process's heap and a file in memory; the disk is a file, read
//! from the guest's cache and past it; and a thread that never rests keeps a count in memory that
//! its disk must never contradict.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

#[path = "../guest_program/mod.rs"]
mod guest_program;
mod model;
mod world;

use std::{
    env,
    io::{self, Write},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use world::World;

/// Enough for each verb to have its turn, in less than half a minute.
const CYCLES: u64 = 25;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[test]
fn memory_and_disk_are_of_one_moment_through_random_cycles() {
    let cycles = number("COFFER_SOAK_CYCLES").unwrap_or(CYCLES);
    let seed = number("COFFER_SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() ^ u64::from(now.subsec_nanos())
    });
    say(&format!(
        "COFFER_SOAK_SEED={seed} COFFER_SOAK_CYCLES={cycles}"
    ));
    let begin = Instant::now();
    let mut world = World::new(seed);
    for cycle in 1..=cycles {
        world.cycle(cycle);
        if cycle % 50 == 0 {
            let seconds = begin.elapsed().as_secs();
            say(&format!(
                "{cycle} cycles in {seconds} s: {}",
                world.counts()
            ));
        }
    }
    say(&format!("{cycles} cycles: {}", world.counts()));
    world.end();
}

/// Progress for who runs it by hand.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
