//! What a fork keeps of its parent and what it must not: the rows of `docs/fork-correctness.md`
//! that need more than a shell to be seen.
//!
//! `COFFER_IDENTITY_FORKS` says how many forks draw random numbers.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

mod generation;
#[path = "../guest_program/mod.rs"]
mod guest_program;
mod inherited;
mod names;
mod refusal;
mod table;
mod time;

use std::{fs, hash::Hasher as _, time::SystemTime};

use cofferdam_testkit::{
    coffer::{Coffer, Sleeper},
    image,
};

/// Busybox with `probe.rs`.
pub(crate) const IMAGE: &str = "probe:test";

const PROBE: &str = include_str!("probe.rs");

/// The store that tests share, with [`IMAGE`].
fn coffer() -> Coffer {
    let coffer = Coffer::shared();
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(PROBE.as_bytes());
    let ready = coffer.home().join(format!("probe-{:x}", hash.finish()));
    let lock = cofferdam_testkit::lock(&coffer.home().join("tests.lock"));
    if !ready.exists() {
        let program = guest_program::compile(PROBE);
        let image = image::busybox().file("bin/probe", 0o755, &program);
        let loaded = coffer.run_with_input(["load"], &image.archive(IMAGE));
        assert_eq!(loaded.code, 0, "{loaded:?}");
        fs::write(ready, b"").unwrap();
    }
    drop(lock);
    coffer
}

/// A sandbox with `probe live`, which is there; `args` are those of `run`.
fn live<'a>(coffer: &'a Coffer, args: &[&str]) -> Sleeper<'a> {
    let sandbox = coffer.detached(&[args, &[IMAGE, "probe", "live"]].concat());
    ask(&sandbox, "links");
    sandbox
}

/// What the `probe live` in a sandbox answers.
fn ask(sandbox: &Sleeper<'_>, question: &str) -> String {
    let words = ["probe", "ask"].into_iter().chain(question.split(' '));
    let finished = sandbox.exec(&words.collect::<Vec<_>>());
    assert_eq!(finished.code, 0, "{finished:?}");
    finished.text()
}

/// Whole numbers that it answers.
fn numbers(sandbox: &Sleeper<'_>, question: &str) -> Vec<i128> {
    let answer = ask(sandbox, question);
    answer
        .split(' ')
        .map(|word| word.parse().unwrap())
        .collect()
}

/// The host's wall clock in nanoseconds since the Unix epoch.
fn unix_ns() -> i128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i128::try_from(now.unwrap().as_nanos()).unwrap()
}
