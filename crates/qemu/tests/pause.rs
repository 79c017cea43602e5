//! How long the pause of a capture is, by how much the guest has changed. Times are told, not
//! judged: they are the host's. What was captured is checked.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the numbers are for who asks for them")]

mod guest;

use std::time::{Duration, Instant};

use cofferdam_backend::{CapturePlan, SnapshotFiles, contract::Harness};
use guest::QemuHarness;

const PAGES_PER_MIB: u64 = 256;

struct Times {
    begin: Duration,
    pause: Duration,
    take: Duration,
    resume: Duration,
    settle: Duration,
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (work.await, start.elapsed())
}

/// Captures a machine of 512 MiB that has changed `mib` since it was restored.
async fn measure(harness: &QemuHarness, mib: u64, seed: u64) -> Times {
    let mut spec = harness.spec();
    spec.memory_mib = 512;
    let (machine, mut guest) = harness.forked(&mut spec).await;
    let dir = harness.directory();
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let plan = CapturePlan {
        memory: Some(files.clone()),
        disks: Vec::new(),
    };
    guest.fill(mib * PAGES_PER_MIB, seed).unwrap();
    let (capture, begin) = timed(machine.begin_capture(plan)).await;
    let mut capture = capture.unwrap();
    let (paused, pause) = timed(machine.pause()).await;
    paused.unwrap();
    let (taken, take) = timed(capture.take()).await;
    taken.unwrap();
    let (resumed, resume) = timed(machine.resume()).await;
    resumed.unwrap();
    let (settled, settle) = timed(capture.settle()).await;
    settled.unwrap();
    guest.fill(mib * PAGES_PER_MIB, !seed).unwrap();
    machine.kill().await.unwrap();
    spec.run_dir = harness.spec().run_dir;
    let restored = harness.backend().restore(&files, &spec).await.unwrap();
    let mut guest = harness.guest(restored.agent_channel().unwrap()).unwrap();
    assert_eq!(guest.differs(mib * PAGES_PER_MIB, seed).unwrap(), None);
    Times {
        begin,
        pause,
        take,
        resume,
        settle,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_holds_what_a_guest_has_changed_however_much_that_is() {
    let Some(harness) = guest::harness() else {
        return;
    };
    for (mib, seed) in [(0, 1), (10, 2), (100, 3), (400, 4)] {
        let times = measure(&harness, mib, seed).await;
        println!(
            "{mib} MiB changed: pause {:?} (stop {:?}, take {:?}, go {:?}); ahead {:?}, after {:?}",
            times.pause + times.take + times.resume,
            times.pause,
            times.take,
            times.resume,
            times.begin,
            times.settle,
        );
    }
}
