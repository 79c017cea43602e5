//! A machine that is captured while it lives on, and what is restored from that.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    BLOCK_BYTES, Harness, Outcome, ROUND_BLOCKS, Running, Violation, clock::bounded,
    outcome::ensure,
};
use crate::{
    BlockDevice, Capture, CapturePlan, Machine, MachineSpec, MemoryBacking, SnapshotFiles,
    SnapshotTier,
};

/// Blocks of the guest's disk: those that rounds write, and as many that they do not.
pub(super) const BLOCKS: u64 = 2 * ROUND_BLOCKS;
/// More pages than any run in which a backend may read them at once, and no multiple of one.
pub(super) const PAGES: u64 = 301;

/// The seed of what every machine has in its memory from the beginning.
pub(super) const BEFORE: u64 = 99;

pub(super) fn captures_live(harness: &dyn Harness) -> bool {
    harness.backend().capabilities().snapshot >= SnapshotTier::Live
}

/// A machine with one writable disk, beside a read-only one that no capture may want.
pub(super) struct Writer {
    pub(super) machine: Box<dyn Machine>,
    pub(super) guest: Box<dyn super::Guest>,
    pub(super) spec: MachineSpec,
}

/// The kinds of machines that backends may capture in different ways.
pub(super) const KINDS: [Began; 2] = [Began::Booted, Began::Restored];

/// What a capture made.
pub(super) struct Taken {
    pub(super) files: SnapshotFiles,
    pub(super) disk: PathBuf,
}

pub(super) fn blank_disk(path: &Path) -> std::io::Result<()> {
    File::create_new(path)?.set_len(BLOCKS * BLOCK_BYTES)
}

/// Whether a machine began with its kernel, and where its memory is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Began {
    Booted,
    BootedInSharedMemory,
    Restored,
    RestoredIntoSharedMemory,
}

impl Writer {
    /// A machine that is used as a sandbox's is: restored from a snapshot that others share.
    pub(super) async fn start(harness: &dyn Harness) -> Result<Self, Violation> {
        Self::begin_as(harness, Began::Restored).await
    }

    pub(super) async fn begin_as(harness: &dyn Harness, began: Began) -> Result<Self, Violation> {
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
        let Running { machine, mut guest } = Running::start(harness, &spec).await?;
        guest.fill(PAGES, BEFORE)?;
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

    pub(super) async fn pause(&self, harness: &dyn Harness) -> Outcome {
        Ok(bounded(harness, "pause", self.machine.pause()).await??)
    }

    pub(super) async fn resume(&self, harness: &dyn Harness) -> Outcome {
        Ok(bounded(harness, "resume", self.machine.resume()).await??)
    }

    pub(super) async fn begin(
        &self,
        harness: &dyn Harness,
        plan: &CapturePlan,
    ) -> Result<Box<dyn Capture>, Violation> {
        let begun = self.machine.begin_capture(plan.clone());
        Ok(bounded(harness, "begin_capture", begun).await??)
    }

    /// Begins, pauses and takes; the machine is left paused.
    pub(super) async fn take(
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
    pub(super) async fn capture(&self, harness: &dyn Harness) -> Result<Taken, Violation> {
        let (plan, taken) = plan(&harness.directory());
        let capture = self.take(harness, &plan).await?;
        self.resume(harness).await?;
        settle(harness, capture).await?;
        taken.check(&self.spec)?;
        Ok(taken)
    }

    /// A machine restored from `taken`, on a disk that is a copy of the captured one.
    pub(super) async fn restore(
        &self,
        harness: &dyn Harness,
        taken: &Taken,
    ) -> Result<Self, Violation> {
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

    pub(super) fn holds(&mut self, who: &str, seed: u64) -> Outcome {
        let wrong = self.guest.differs(PAGES, seed)?;
        ensure(wrong.is_none(), || {
            format!("page {} of {who} is not as it was", wrong.unwrap_or(0))
        })
    }

    pub(super) fn reads(&mut self, who: &str, block: u64, expected: u64) -> Outcome {
        let word = self.guest.read_block(block)?;
        ensure(word == expected, || {
            format!("block {block} of {who} is {word}, not {expected}")
        })
    }

    /// Waits until `count` more rounds are over.
    pub(super) fn rounds(&mut self, who: &str, count: u64) -> Outcome {
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
    pub(super) fn check(&self, spec: &MachineSpec) -> Outcome {
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

pub(super) fn plan(dir: &Path) -> (CapturePlan, Taken) {
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

pub(super) async fn settle(harness: &dyn Harness, capture: Box<dyn Capture>) -> Outcome {
    Ok(bounded(harness, "settle", capture.settle()).await??)
}

pub(super) fn is_empty(dir: &Path) -> Outcome {
    let left = fs::read_dir(dir)?.count();
    ensure(left == 0, || format!("it left {left} files"))
}
