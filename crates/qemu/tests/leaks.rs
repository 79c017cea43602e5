//! Machines leave nothing behind. One test, so that nothing else runs in this process.

#![allow(clippy::unwrap_used, reason = "tests")]

mod guest;

use std::time::{Duration, Instant};

use cofferdam_backend::{CapturePlan, Machine, SnapshotFiles, contract::Harness};

const ROUNDS: usize = 8;

/// What would be left by each round is left by all of them; half of that is far from both.
const SLACK: usize = ROUNDS / 2;

/// Far longer than anything takes to end.
const LIMIT: Duration = Duration::from_secs(30);

/// Open descriptors and threads of this process.
fn held() -> [usize; 2] {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    [count("/proc/self/fd"), count("/proc/self/task")]
}

/// Children of any thread, zombies among them.
fn children() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let list = tasks.map(|task| {
        // A thread may end meanwhile.
        let file = task.unwrap().path().join("children");
        std::fs::read_to_string(file).unwrap_or_default()
    });
    list.collect()
}

/// Begins a capture and, in turn, gives it up, takes it and gives it up, or brings it to its end.
async fn capture(harness: &guest::QemuHarness, machine: &dyn Machine, round: usize) {
    let dir = harness.directory();
    let memory = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let plan = CapturePlan {
        memory: Some(memory),
        disks: Vec::new(),
    };
    let mut capture = machine.begin_capture(plan).await.unwrap();
    let ending = round % 3;
    if ending > 0 {
        machine.pause().await.unwrap();
        capture.take().await.unwrap();
    }
    if ending > 1 {
        capture.settle().await.unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn machines_leave_no_descriptors_threads_or_children() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut before = held();
    for round in 0..=ROUNDS {
        // The first round starts what lives as long as the process.
        if round == 1 {
            before = held();
        }
        let spec = harness.spec();
        let machine = harness.backend().start(&spec).await.unwrap();
        let channel = machine.agent_channel().unwrap();
        capture(&harness, &*machine, round).await;
        let attached = harness.backend().attach(spec.run_dir).await.unwrap();
        // The last round waits for the end of its process's entry; others only for its end.
        if round % 2 == 0 {
            machine.kill().await.unwrap();
        }
        drop((channel, machine));
        attached.wait().await;
    }
    // What the last ones set up is taken down by tasks that have yet to run.
    let start = Instant::now();
    let few = |after: [usize; 2]| {
        after
            .iter()
            .zip(before)
            .all(|(now, then)| *now < then + SLACK)
    };
    while !few(held()) {
        assert!(start.elapsed() < LIMIT, "{:?} after {before:?}", held());
        tokio::task::yield_now().await;
    }
    assert_eq!(children(), "");
}
