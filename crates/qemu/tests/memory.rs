//! Memory that a guest frees goes back to the host, and what machines share stays as it is.

#![allow(clippy::unwrap_used, reason = "tests")]

mod guest;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use cofferdam_backend::{
    CapturePlan, SnapshotFiles,
    contract::{Guest, Harness},
};

const PAGES_PER_MIB: u64 = 256;

/// The guest reports free memory 2 s after it was freed (Linux `mm/page_reporting.c`,
/// `PAGE_REPORTING_DELAY`), a part at a time.
const REPORT_LIMIT: Duration = Duration::from_secs(60);

/// Memory in KiB that a process has to itself; proc(5), `/proc/PID/smaps_rollup`.
fn anonymous_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// No event tells of it; each answer of the guest takes the place of a wait.
fn until_reported(guest: &mut dyn Guest, pid: u32, limit_kib: u64) {
    let start = Instant::now();
    while anonymous_kib(pid) > limit_kib {
        assert!(start.elapsed() < REPORT_LIMIT, "{} KiB", anonymous_kib(pid));
        guest.tick().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_guest_frees_leaves_its_machine_and_not_the_template() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut spec = harness.spec();
    spec.memory_mib = 256;
    let template = harness.template(&mut spec).await;
    let before = fs::read(&template.memory).unwrap();
    let machine = harness.backend().restore(&template, &spec).await.unwrap();
    let mut guest = harness.guest(machine.agent_channel().unwrap()).unwrap();
    guest.fill(128 * PAGES_PER_MIB, 1).unwrap();
    let full = anonymous_kib(machine.pid());
    guest.fill(1, 1).unwrap();
    until_reported(&mut *guest, machine.pid(), full - (100 << 10));
    // What was given back can be had again, and the template is as it was.
    guest.fill(128 * PAGES_PER_MIB, 2).unwrap();
    assert_eq!(guest.differs(128 * PAGES_PER_MIB, 2).unwrap(), None);
    assert!(fs::read(&template.memory).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_has_freed_is_in_no_capture_and_can_be_had_again_by_its_forks() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut spec = harness.spec();
    spec.memory_mib = 256;
    let (machine, mut guest) = harness.forked(&mut spec).await;
    guest.fill(128 * PAGES_PER_MIB, 1).unwrap();
    let full = anonymous_kib(machine.pid());
    guest.fill(10, 2).unwrap();
    until_reported(&mut *guest, machine.pid(), full - (100 << 10));
    let dir = harness.directory();
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let plan = CapturePlan {
        memory: Some(files.clone()),
        disks: Vec::new(),
    };
    let mut capture = machine.begin_capture(plan).await.unwrap();
    machine.pause().await.unwrap();
    capture.take().await.unwrap();
    machine.resume().await.unwrap();
    capture.settle().await.unwrap();
    // stat(3type): blocks are of 512 bytes.
    let stored_mib = fs::metadata(&files.memory).unwrap().blocks() >> 11;
    assert!(stored_mib < 100, "{stored_mib} MiB");
    spec.run_dir = harness.spec().run_dir;
    let fork = harness.backend().restore(&files, &spec).await.unwrap();
    let mut guest = harness.guest(fork.agent_channel().unwrap()).unwrap();
    assert_eq!(guest.differs(10, 2).unwrap(), None);
    guest.fill(128 * PAGES_PER_MIB, 3).unwrap();
    assert_eq!(guest.differs(128 * PAGES_PER_MIB, 3).unwrap(), None);
}
