//! Captures of machines that live on. Backends without them have nothing to prove here.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    BLOCK_BYTES, Harness, Outcome, ROUND_BLOCKS, Running, Violation,
    clock::bounded,
    outcome::{ensure, refused},
};
use crate::{
    BlockDevice, Capture, CapturePlan, ErrorKind, Machine, MachineSpec, MachineStatus,
    MemoryBacking, SnapshotFiles, SnapshotTier,
};

/// Blocks of the guest's disk: those that rounds write, and as many that they do not.
const BLOCKS: u64 = 2 * ROUND_BLOCKS;
/// More pages than any run in which a backend may read them at once, and no multiple of one.
const PAGES: u64 = 301;

fn captures_live(harness: &dyn Harness) -> bool {
    harness.backend().capabilities().snapshot >= SnapshotTier::Live
}

/// A machine with one writable disk, beside a read-only one that no capture may want.
struct Writer {
    machine: Box<dyn Machine>,
    guest: Box<dyn super::Guest>,
    spec: MachineSpec,
}

/// What a capture made.
struct Taken {
    files: SnapshotFiles,
    disk: PathBuf,
}

fn blank_disk(path: &Path) -> std::io::Result<()> {
    File::create_new(path)?.set_len(BLOCKS * BLOCK_BYTES)
}

/// Whether a machine began with its kernel, and where its memory is.
#[derive(Clone, Copy, Debug)]
enum Began {
    Booted,
    BootedInSharedMemory,
    Restored,
    RestoredIntoSharedMemory,
}

impl Writer {
    /// A machine that is used as a sandbox's is: restored from a snapshot that others share.
    async fn start(harness: &dyn Harness) -> Result<Self, Violation> {
        Self::begin_as(harness, Began::Restored).await
    }

    async fn begin_as(harness: &dyn Harness, began: Began) -> Result<Self, Violation> {
        let dir = harness.directory();
        let mut spec = harness.spec();
        for (name, read_only) in [("data", false), ("image", true)] {
            let path = dir.join(name);
            blank_disk(&path)?;
            spec.block_devices.push(BlockDevice {
                id: name.to_owned(),
                path,
                read_only,
            });
        }
        let files = SnapshotFiles {
            memory: dir.join("memory"),
            state: dir.join("state"),
        };
        if !matches!(began, Began::Booted) {
            spec.memory = MemoryBacking::SharedFile(files.memory.clone());
        }
        let Running { machine, guest } = Running::start(harness, &spec).await?;
        let mut writer = Self {
            machine,
            guest,
            spec,
        };
        if let Began::Restored | Began::RestoredIntoSharedMemory = began {
            writer.pause(harness).await?;
            let snapshot = writer.machine.snapshot(files.clone());
            bounded(harness, "snapshot", snapshot).await??;
            bounded(harness, "kill", writer.machine.kill()).await??;
            writer.spec.run_dir = harness.spec().run_dir;
            if let Began::Restored = began {
                writer.spec.memory = MemoryBacking::Private;
            }
            let restored = harness.backend().restore(&files, &writer.spec);
            let machine = bounded(harness, "restore", restored).await??;
            let Running { machine, guest } = Running::meet(harness, machine)?;
            (writer.machine, writer.guest) = (machine, guest);
        }
        Ok(writer)
    }

    async fn pause(&self, harness: &dyn Harness) -> Outcome {
        Ok(bounded(harness, "pause", self.machine.pause()).await??)
    }

    async fn resume(&self, harness: &dyn Harness) -> Outcome {
        Ok(bounded(harness, "resume", self.machine.resume()).await??)
    }

    async fn begin(
        &self,
        harness: &dyn Harness,
        plan: &CapturePlan,
    ) -> Result<Box<dyn Capture>, Violation> {
        let begun = self.machine.begin_capture(plan.clone());
        Ok(bounded(harness, "begin_capture", begun).await??)
    }

    /// Begins, pauses and takes; the machine is left paused.
    async fn take(
        &self,
        harness: &dyn Harness,
        plan: &CapturePlan,
    ) -> Result<Box<dyn Capture>, Violation> {
        let mut capture = self.begin(harness, plan).await?;
        self.pause(harness).await?;
        bounded(harness, "take", capture.take()).await??;
        Ok(capture)
    }

    /// A whole capture of what is now; the machine runs on.
    async fn capture(&self, harness: &dyn Harness) -> Result<Taken, Violation> {
        let (plan, taken) = plan(&harness.directory());
        let capture = self.take(harness, &plan).await?;
        self.resume(harness).await?;
        settle(harness, capture).await?;
        taken.check(&self.spec)?;
        Ok(taken)
    }

    /// A machine restored from `taken`, on a disk that is a copy of the captured one.
    async fn restore(&self, harness: &dyn Harness, taken: &Taken) -> Result<Self, Violation> {
        let mut spec = MachineSpec {
            run_dir: harness.spec().run_dir,
            memory: MemoryBacking::Private,
            ..self.spec.clone()
        };
        let disk = harness.directory().join("data");
        fs::copy(&taken.disk, &disk)?;
        spec.block_devices[0].path = disk;
        let restored = harness.backend().restore(&taken.files, &spec);
        let machine = bounded(harness, "restore", restored).await??;
        let Running { machine, guest } = Running::meet(harness, machine)?;
        Ok(Self {
            machine,
            guest,
            spec,
        })
    }

    fn holds(&mut self, who: &str, seed: u64) -> Outcome {
        let wrong = self.guest.differs(PAGES, seed)?;
        ensure(wrong.is_none(), || {
            format!("page {} of {who} is not as it was", wrong.unwrap_or(0))
        })
    }

    fn reads(&mut self, who: &str, block: u64, expected: u64) -> Outcome {
        let word = self.guest.read_block(block)?;
        ensure(word == expected, || {
            format!("block {block} of {who} is {word}, not {expected}")
        })
    }

    /// Waits until `count` more rounds are over.
    fn rounds(&mut self, who: &str, count: u64) -> Outcome {
        let mut until = None;
        loop {
            let rounds = self.guest.rounds()?.ok_or_else(|| {
                Violation::new(format!("disk and memory of {who} are not of one moment"))
            })?;
            if rounds >= *until.get_or_insert(rounds + count) {
                return Ok(());
            }
        }
    }
}

impl Taken {
    fn check(&self, spec: &MachineSpec) -> Outcome {
        for (path, bytes) in [
            (&self.files.memory, u64::from(spec.memory_mib) << 20),
            (&self.disk, BLOCKS * BLOCK_BYTES),
        ] {
            let length = fs::metadata(path)?.len();
            ensure(length == bytes, || {
                format!("`{}` has {length} bytes", path.display())
            })?;
        }
        Ok(())
    }
}

fn plan(dir: &Path) -> (CapturePlan, Taken) {
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let disk = dir.join("disk");
    let plan = CapturePlan {
        memory: Some(files.clone()),
        disks: vec![disk.clone()],
    };
    (plan, Taken { files, disk })
}

async fn settle(harness: &dyn Harness, capture: Box<dyn Capture>) -> Outcome {
    Ok(bounded(harness, "settle", capture.settle()).await??)
}

fn is_empty(dir: &Path) -> Outcome {
    let left = fs::read_dir(dir)?.count();
    ensure(left == 0, || format!("it left {left} files"))
}

pub(super) async fn a_captured_machine_and_its_capture_both_go_on_by_one(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    for began in [
        Began::Booted,
        Began::BootedInSharedMemory,
        Began::Restored,
        Began::RestoredIntoSharedMemory,
    ] {
        let mut writer = Writer::begin_as(harness, began).await?;
        let (plan, taken) = plan(&harness.directory());
        let mut capture = writer.begin(harness, &plan).await?;
        let last = writer.guest.tick()?;
        writer.pause(harness).await?;
        bounded(harness, "take", capture.take()).await??;
        writer.resume(harness).await?;
        let next = writer.guest.tick()?;
        ensure(next == last + 1, || {
            format!("{began:?}: the captured guest said {last}, then {next}")
        })?;
        settle(harness, capture).await?;
        let mut restored = writer.restore(harness, &taken).await?;
        // Meeting the guest again has it tick once.
        let first = restored.guest.tick()?;
        ensure(first == last + 2, || {
            format!("{began:?}: it said {last} before it was taken, and {first} after")
        })?;
        bounded(harness, "kill", writer.machine.kill()).await??;
    }
    Ok(())
}

pub(super) async fn memory_is_captured_as_it_was_at_the_moment(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    writer.guest.fill(2 * PAGES, 1)?;
    let (plan, taken) = plan(&harness.directory());
    let mut capture = writer.begin(harness, &plan).await?;
    writer.guest.fill(PAGES, 2)?;
    writer.pause(harness).await?;
    bounded(harness, "take", capture.take()).await??;
    writer.resume(harness).await?;
    writer.guest.fill(PAGES, 3)?;
    settle(harness, capture).await?;
    let mut restored = writer.restore(harness, &taken).await?;
    restored.holds("the capture", 2)?;
    writer.holds("the captured machine", 3)
}

pub(super) async fn a_disk_is_captured_as_it_was_at_the_moment(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    // A block each that changes before, between and after begin and take, or never.
    let write = |writer: &mut Writer, blocks: &[u64], word: u64| {
        blocks
            .iter()
            .try_for_each(|block| writer.guest.write_block(*block, word))
    };
    write(&mut writer, &[0, 1, 2, 3], 10)?;
    let (plan, taken) = plan(&harness.directory());
    let mut capture = writer.begin(harness, &plan).await?;
    write(&mut writer, &[1, 2, 4], 11)?;
    writer.pause(harness).await?;
    bounded(harness, "take", capture.take()).await??;
    writer.resume(harness).await?;
    write(&mut writer, &[2, 3, 4, 5], 12)?;
    settle(harness, capture).await?;
    let mut restored = writer.restore(harness, &taken).await?;
    for (block, then, now) in [
        (0, 10, 10),
        (1, 11, 11),
        (2, 11, 12),
        (3, 10, 12),
        (4, 11, 12),
        (5, 0, 12),
        (6, 0, 0),
    ] {
        restored.reads("the capture", block, then)?;
        writer.reads("the captured machine", block, now)?;
    }
    Ok(())
}

pub(super) async fn disk_and_memory_are_of_one_moment_while_the_guest_writes(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    writer.guest.begin_rounds()?;
    for _ in 0..3 {
        writer.rounds("the machine", ROUND_BLOCKS + 3)?;
        let (plan, taken) = plan(&harness.directory());
        let capture = writer.take(harness, &plan).await?;
        writer.resume(harness).await?;
        writer.rounds("the machine", 3)?;
        settle(harness, capture).await?;
        let mut restored = writer.restore(harness, &taken).await?;
        // Every block is looked at in that many rounds.
        restored.rounds("the capture", ROUND_BLOCKS + 1)?;
    }
    writer.rounds("the machine", ROUND_BLOCKS + 1)
}

pub(super) async fn disks_alone_are_captured_without_memory(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    let dir = harness.directory();
    let (mut plan, taken) = plan(&dir);
    plan.memory = None;
    let mut capture = writer.begin(harness, &plan).await?;
    writer.guest.write_block(1, 21)?;
    writer.pause(harness).await?;
    bounded(harness, "take", capture.take()).await??;
    writer.resume(harness).await?;
    writer.guest.write_block(1, 22)?;
    settle(harness, capture).await?;
    let mut head = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(&taken.disk)?, &mut head, BLOCK_BYTES)?;
    let word = u64::from_le_bytes(head);
    ensure(word == 21, || {
        format!("the captured block is {word}, not 21")
    })?;
    let files = fs::read_dir(&dir)?.count();
    ensure(files == 1, || {
        format!("{files} files were made of one disk")
    })
}

pub(super) async fn a_dropped_capture_leaves_no_file_and_the_machine_as_it_was(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    writer.guest.begin_rounds()?;
    let dir = harness.directory();
    let (plan, _) = plan(&dir);
    drop(writer.begin(harness, &plan).await?);
    is_empty(&dir)?;
    writer.rounds("a machine whose capture was dropped", 3)?;
    drop(writer.take(harness, &plan).await?);
    is_empty(&dir)?;
    writer.resume(harness).await?;
    writer.rounds("a machine whose taken capture was dropped", 3)?;
    let capture = writer.take(harness, &plan).await?;
    writer.resume(harness).await?;
    drop(capture);
    is_empty(&dir)?;
    let status = writer.machine.status();
    ensure(status == MachineStatus::Running, || {
        format!("its status is {status:?}")
    })?;
    // Nothing that is left of them is in the way of one that is wanted.
    let taken = writer.capture(harness).await?;
    let mut restored = writer.restore(harness, &taken).await?;
    restored.rounds("a capture after dropped ones", ROUND_BLOCKS + 1)
}

pub(super) async fn a_machine_has_one_capture_at_a_time(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let writer = Writer::start(harness).await?;
    let (first, _) = plan(&harness.directory());
    let dir = harness.directory();
    let (second, _) = plan(&dir);
    let again = || {
        bounded(
            harness,
            "begin",
            writer.machine.begin_capture(second.clone()),
        )
    };
    let mut capture = writer.begin(harness, &first).await?;
    refused("a second capture", again().await?, &[ErrorKind::WrongState])?;
    writer.pause(harness).await?;
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let snapshot = bounded(harness, "snapshot", writer.machine.snapshot(files)).await?;
    let kinds = [ErrorKind::WrongState];
    refused("a snapshot during a capture", snapshot, &kinds)?;
    bounded(harness, "take", capture.take()).await??;
    writer.resume(harness).await?;
    refused("a second capture", again().await?, &[ErrorKind::WrongState])?;
    is_empty(&dir)?;
    settle(harness, capture).await?;
    writer.capture(harness).await.map(drop)
}

pub(super) async fn only_a_paused_machine_is_taken_and_only_once(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    let dir = harness.directory();
    let (plan, taken) = plan(&dir);
    let kinds = [ErrorKind::WrongState];
    let capture = writer.begin(harness, &plan).await?;
    let settled = bounded(harness, "settle", capture.settle()).await?;
    refused("settling what was not taken", settled, &kinds)?;
    is_empty(&dir)?;
    let mut capture = writer.begin(harness, &plan).await?;
    let result = bounded(harness, "take", capture.take()).await?;
    refused("taking a running machine", result, &kinds)?;
    // It was refused, so nothing has failed: the moment is the pause that comes.
    writer.guest.fill(PAGES, 7)?;
    writer.pause(harness).await?;
    bounded(harness, "take", capture.take()).await??;
    let result = bounded(harness, "take", capture.take()).await?;
    refused("taking twice", result, &kinds)?;
    writer.resume(harness).await?;
    settle(harness, capture).await?;
    let mut restored = writer.restore(harness, &taken).await?;
    restored.holds("the capture", 7)
}

pub(super) async fn a_plan_that_does_not_fit_is_refused_and_leaves_nothing(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let writer = Writer::start(harness).await?;
    let dir = harness.directory();
    let (right, taken) = plan(&dir);
    let refuse = |what: &'static str, plan: CapturePlan| {
        let result = bounded(harness, "begin", writer.machine.begin_capture(plan));
        async move { refused(what, result.await?, &[ErrorKind::InvalidSpec]) }
    };
    for count in [0, 2] {
        let disks = (0..count).map(|n| dir.join(format!("disk{n}"))).collect();
        let plan = CapturePlan {
            disks,
            ..right.clone()
        };
        refuse("another number of disks", plan).await?;
        is_empty(&dir)?;
    }
    for path in [&taken.files.memory, &taken.files.state, &taken.disk] {
        fs::write(path, b"mine")?;
        refuse("a file that exists", right.clone()).await?;
        ensure(fs::read(path)? == b"mine", || {
            format!("`{}` was overwritten", path.display())
        })?;
        fs::remove_file(path)?;
        is_empty(&dir)?;
    }
    writer.capture(harness).await.map(drop)
}

pub(super) async fn a_machine_that_is_paused_all_along_is_captured_and_stays_paused(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    writer.guest.fill(PAGES, 4)?;
    writer.guest.write_block(0, 40)?;
    writer.pause(harness).await?;
    let (plan, taken) = plan(&harness.directory());
    let mut capture = writer.begin(harness, &plan).await?;
    bounded(harness, "take", capture.take()).await??;
    settle(harness, capture).await?;
    let status = writer.machine.status();
    ensure(status == MachineStatus::Paused, || {
        format!("its status is {status:?}")
    })?;
    ensure(writer.guest.is_silent()?, || {
        "a guest that was captured while paused runs".to_owned()
    })?;
    let mut restored = writer.restore(harness, &taken).await?;
    restored.holds("the capture", 4)?;
    restored.reads("the capture", 0, 40)?;
    writer.resume(harness).await?;
    writer.holds("the captured machine", 4)
}

pub(super) async fn captures_of_captures_hold_what_every_generation_wrote(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    for generation in 0..3 {
        writer.guest.fill(PAGES, generation)?;
        writer.guest.write_block(generation, 50 + generation)?;
        let last = writer.guest.tick()?;
        let taken = writer.capture(harness).await?;
        let mut child = writer.restore(harness, &taken).await?;
        // The captured files are not needed by the machines that came of them.
        for path in [&taken.files.memory, &taken.files.state, &taken.disk] {
            fs::remove_file(path)?;
        }
        bounded(harness, "kill", writer.machine.kill()).await??;
        let who = format!("generation {}", generation + 1);
        child.holds(&who, generation)?;
        for block in 0..=generation {
            child.reads(&who, block, 50 + block)?;
        }
        let next = child.guest.tick()?;
        ensure(next == last + 2, || {
            format!("{who} said {next} after {last}")
        })?;
        writer = child;
    }
    Ok(())
}

pub(super) async fn two_captures_of_one_machine_are_each_of_their_own_moment(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let mut writer = Writer::start(harness).await?;
    let mut taken = Vec::new();
    for moment in 0..2 {
        writer.guest.fill(PAGES, moment)?;
        writer.guest.write_block(0, 60 + moment)?;
        taken.push(writer.capture(harness).await?);
    }
    for (moment, taken) in (0..).zip(&taken) {
        let mut restored = writer.restore(harness, taken).await?;
        restored.holds("a capture", moment)?;
        restored.reads("a capture", 0, 60 + moment)?;
    }
    writer.holds("the captured machine", 1)
}

pub(super) async fn a_capture_of_a_machine_that_ends_fails_and_leaves_nothing(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    let writer = Writer::start(harness).await?;
    let dir = harness.directory();
    let (plan, _) = plan(&dir);
    let mut capture = writer.begin(harness, &plan).await?;
    bounded(harness, "kill", writer.machine.kill()).await??;
    let result = bounded(harness, "take", capture.take()).await?;
    refused("taking a dead machine", result, &[ErrorKind::Gone])?;
    drop(capture);
    is_empty(&dir)?;
    let again = bounded(harness, "begin", writer.machine.begin_capture(plan)).await?;
    refused("capturing a dead machine", again, &[ErrorKind::Gone])?;
    is_empty(&dir)
}
