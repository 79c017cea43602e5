//! What forks cost in memory: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::time::Duration;

use cofferdam_testkit::{
    coffer::{Coffer, Sleeper},
    sandboxes::until,
};

/// A line of a process's `smaps_rollup`, in KiB. Source: proc_pid_smaps(5).
fn rollup_kib(pid: i32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.trim()
        .strip_suffix("kB")
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn machine_kib(sandbox: &Sleeper<'_>, key: &str) -> u64 {
    rollup_kib(sandbox.machine(), key)
}

#[test]
fn forks_of_a_moment_share_its_pages() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    // Memory that a copy of the machine would hold a second time.
    parent.sh("head -c 50331648 /dev/urandom > /dev/shm/x");
    let ids = coffer.ok(["fork", "--count", "4", &parent.id]);
    let forks: Vec<_> = ids.lines().map(|id| coffer.keep(id.to_owned())).collect();
    for fork in &forks {
        assert_eq!(fork.sh("wc -c < /dev/shm/x"), (48 << 20).to_string());
    }
    // All have read all of it, and what each has written is its own.
    for fork in &forks {
        // Dirty is what has not reached the disk yet, though no guest writes to it.
        let shared = machine_kib(fork, "Shared_Clean:") + machine_kib(fork, "Shared_Dirty:");
        assert!(shared > 48 << 10, "{shared} KiB are shared");
        let (pss, rss) = (machine_kib(fork, "Pss:"), machine_kib(fork, "Rss:"));
        assert!(pss * 4 < rss * 3, "PSS {pss} KiB of {rss} KiB");
    }
}

/// What one more fork of a sandbox adds in KiB, machine and supervisor, when some are there.
fn memory_of_one_more_fork(coffer: &Coffer, parent: &Sleeper<'_>) -> u64 {
    const FORKS: u64 = 4;
    let snapshot = coffer.ok(["snapshot", "create", &parent.id]);
    let fork = || -> Vec<_> {
        let ids = coffer.ok(["fork", "--count", &FORKS.to_string(), &snapshot]);
        ids.lines().map(|id| coffer.keep(id.to_owned())).collect()
    };
    let pss = |forks: &[Sleeper<'_>]| -> u64 {
        let kib =
            |fork: &Sleeper<'_>| machine_kib(fork, "Pss:") + rollup_kib(fork.supervisor(), "Pss:");
        forks.iter().map(kib).sum()
    };
    let mut forks = fork();
    let few = pss(&forks);
    forks.extend(fork());
    let many = pss(&forks);
    drop(forks);
    coffer.ok(["snapshot", "rm", &snapshot]);
    many.saturating_sub(few) / FORKS
}

/// What an idle fork adds may be 25 MiB; what all of them share is paid once, however many they are.
#[test]
fn an_idle_fork_adds_little_to_those_that_are_there() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    // An idle guest is one whose kernel has done what its start left it for later: free pages are
    // reported after 2 s, file systems write back after 5. On a busy host it takes longer.
    let seen = [8, 16, 32].iter().map(|seconds| {
        // Time, on purpose: nothing outside tells that it is done.
        std::thread::sleep(Duration::from_secs(*seconds));
        memory_of_one_more_fork(&coffer, &parent)
    });
    let mut added = Vec::new();
    for kib in seen {
        added.push(kib);
        if (4 << 10..25 << 10).contains(&kib) {
            return;
        }
    }
    panic!("KiB of one more fork: {added:?}");
}

#[test]
fn memory_that_a_guest_frees_returns_to_the_host() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let own = || machine_kib(&sandbox, "Anonymous:");
    let before = own();
    sandbox.sh("head -c 62914560 /dev/urandom > /dev/shm/x");
    let full = own();
    assert!(full > before + (50 << 10), "{full} KiB after {before} KiB");
    sandbox.sh("rm /dev/shm/x");
    until("the memory", || own() < full - (40 << 10));
}
