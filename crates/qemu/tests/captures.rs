//! Captures of machines that live on, beyond the contract.

#![allow(clippy::unwrap_used, reason = "tests")]

mod guest;

use std::{
    fs::File,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use cofferdam_backend::{
    BlockDevice, CapturePlan, MachineSpec, MachineStatus, SnapshotFiles,
    contract::{BLOCK_BYTES, Guest, Harness, ROUND_BLOCKS, operation},
};
use guest::QemuHarness;

fn files(dir: &Path) -> SnapshotFiles {
    SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    }
}

/// A spec with one blank disk.
fn with_disk(harness: &QemuHarness) -> MachineSpec {
    let path = harness.directory().join("data");
    let file = File::create_new(&path).unwrap();
    file.set_len(2 * ROUND_BLOCKS * BLOCK_BYTES).unwrap();
    let mut spec = harness.spec();
    spec.block_devices.push(BlockDevice {
        id: "data".to_owned(),
        path,
        read_only: false,
    });
    spec
}

fn plan(dir: &Path) -> (CapturePlan, SnapshotFiles, PathBuf) {
    let (files, disk) = (files(dir), dir.join("disk"));
    let plan = CapturePlan {
        memory: Some(files.clone()),
        disks: vec![disk.clone()],
    };
    (plan, files, disk)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_stays_paused_after_a_snapshot_can_still_be_captured() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut spec = with_disk(&harness);
    let (machine, mut guest) = harness.forked(&mut spec).await;
    guest.write_block(1, 11).unwrap();
    machine.pause().await.unwrap();
    machine.snapshot(files(&harness.directory())).await.unwrap();
    let (plan, files, disk) = plan(&harness.directory());
    let mut capture = machine.begin_capture(plan).await.unwrap();
    capture.take().await.unwrap();
    capture.settle().await.unwrap();
    machine.resume().await.unwrap();
    guest.write_block(1, 12).unwrap();
    spec.block_devices[0].path = disk;
    spec.run_dir = harness.spec().run_dir;
    let restored = harness.backend().restore(&files, &spec).await.unwrap();
    let mut fork = harness.guest(restored.agent_channel().unwrap()).unwrap();
    assert_eq!(fork.read_block(1).unwrap(), 11);
    assert_eq!(guest.read_block(1).unwrap(), 12);
}

/// Asks the guest to tick, again and again, until told to stop or nothing is taken any more.
struct Chatter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Chatter {
    fn on(mut channel: UnixStream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // All zeroes: wherever a capture cuts this stream, what follows is a request.
        let request = [operation::TICK; 17];
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && channel.write_all(&request).is_ok() {}
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// QEMU takes input for a paused guest and puts it into the guest's memory.
#[tokio::test(flavor = "multi_thread")]
async fn input_that_comes_while_a_machine_is_taken_breaks_no_capture() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut spec = harness.spec();
    let template = harness.template(&mut spec).await;
    for _ in 0..4 {
        spec.run_dir = harness.spec().run_dir;
        let machine = harness.backend().restore(&template, &spec).await.unwrap();
        let channel = machine.agent_channel().unwrap();
        let mut input = channel.try_clone().unwrap();
        let mut guest = harness.guest(channel).unwrap();
        let before = guest.tick().unwrap();
        let dir = harness.directory();
        let files = files(&dir);
        let plan = CapturePlan {
            memory: Some(files.clone()),
            disks: Vec::new(),
        };
        let mut capture = machine.begin_capture(plan).await.unwrap();
        machine.pause().await.unwrap();
        // As much as the channel takes; the rest when the guest runs again.
        let chatter = Chatter::on(input.try_clone().unwrap());
        capture.take().await.unwrap();
        capture.settle().await.unwrap();
        input.flush().unwrap();
        spec.run_dir = harness.spec().run_dir;
        let fork = harness.backend().restore(&files, &spec).await.unwrap();
        let mut fork_guest = harness.guest(fork.agent_channel().unwrap()).unwrap();
        let (first, second) = (fork_guest.tick().unwrap(), fork_guest.tick().unwrap());
        assert!(
            before < first && first < second,
            "{before} {first} {second}"
        );
        input.shutdown(std::net::Shutdown::Both).unwrap();
        chatter.end();
    }
}

/// More than is read in a pause, so that it is QEMU that copies it ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_much_memory_of_its_own_is_copied_ahead_while_it_writes() {
    const PAGES: u64 = 230 * 256;
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut spec = with_disk(&harness);
    spec.memory_mib = 320;
    let (machine, mut guest) = harness.forked(&mut spec).await;
    guest.fill(PAGES, 1).unwrap();
    guest.begin_rounds().unwrap();
    let (plan, files, disk) = plan(&harness.directory());
    // One that is given up in each of its states is in nobody's way.
    drop(machine.begin_capture(plan.clone()).await.unwrap());
    assert_eq!(machine.status(), MachineStatus::Running);
    let mut capture = machine.begin_capture(plan.clone()).await.unwrap();
    machine.pause().await.unwrap();
    capture.take().await.unwrap();
    drop(capture);
    machine.resume().await.unwrap();
    assert!(!files.memory.exists() && !files.state.exists() && !disk.exists());
    rounds(&mut *guest);
    let mut capture = machine.begin_capture(plan).await.unwrap();
    guest.fill(PAGES, 2).unwrap();
    machine.pause().await.unwrap();
    capture.take().await.unwrap();
    machine.resume().await.unwrap();
    guest.fill(PAGES, 3).unwrap();
    capture.settle().await.unwrap();
    rounds(&mut *guest);
    machine.kill().await.unwrap();
    spec.block_devices[0].path = disk;
    spec.run_dir = harness.spec().run_dir;
    let fork = harness.backend().restore(&files, &spec).await.unwrap();
    let mut guest = harness.guest(fork.agent_channel().unwrap()).unwrap();
    assert_eq!(guest.differs(PAGES, 2).unwrap(), None);
    rounds(&mut *guest);
}

/// Waits until every block was written and found as it had to be.
fn rounds(guest: &mut dyn Guest) {
    let agree = "disk and memory are of one moment";
    let start = guest.rounds().unwrap().expect(agree);
    while guest.rounds().unwrap().expect(agree) <= start + ROUND_BLOCKS {}
}
