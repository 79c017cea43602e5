//! Capture, restore, fork. Backends without them have nothing to prove here.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::Path,
};

use super::{
    Harness, Outcome, Running, Violation,
    clock::bounded,
    outcome::{ensure, refused},
};
use crate::{ErrorKind, MachineSpec, MemoryBacking, SnapshotFiles, SnapshotTier};

fn captures(harness: &dyn Harness) -> bool {
    harness.backend().capabilities().snapshot >= SnapshotTier::Memory
}

/// A snapshot, the spec of its machine, and the guest's last answer before it.
pub(super) struct Captured {
    pub(super) files: SnapshotFiles,
    spec: MachineSpec,
    last: u64,
}

async fn capture(harness: &dyn Harness, shared: bool) -> Result<Captured, Violation> {
    capture_of(harness, harness.spec(), shared).await
}

/// A capture of a machine of `spec`, whose memory is a shared file if so asked.
pub(super) async fn capture_of(
    harness: &dyn Harness,
    mut spec: MachineSpec,
    shared: bool,
) -> Result<Captured, Violation> {
    let dir = harness.directory();
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    if shared {
        spec.memory = MemoryBacking::SharedFile(files.memory.clone());
    }
    let Running { machine, mut guest } = Running::start(harness, &spec).await?;
    let mut last = 0;
    for _ in 0..5 {
        last = guest.tick()?;
    }
    bounded(harness, "pause", machine.pause()).await??;
    bounded(harness, "snapshot", machine.snapshot(files.clone())).await??;
    bounded(harness, "kill", machine.kill()).await??;
    let length = fs::metadata(&files.memory)?.len();
    ensure(length == u64::from(spec.memory_mib) << 20, || {
        format!("the memory file has {length} bytes")
    })?;
    Ok(Captured { files, spec, last })
}

impl Captured {
    /// Another capture of the same machine.
    pub(super) fn with_files(&self, files: SnapshotFiles) -> Self {
        Self {
            files,
            spec: self.spec.clone(),
            last: self.last,
        }
    }

    /// A spec for one more machine of the same shape, with private memory.
    pub(super) fn spec(&self, harness: &dyn Harness) -> MachineSpec {
        MachineSpec {
            memory: MemoryBacking::Private,
            ..MachineSpec {
                run_dir: harness.spec().run_dir,
                ..self.spec.clone()
            }
        }
    }

    pub(super) async fn fork(&self, harness: &dyn Harness) -> Result<Running, Violation> {
        let spec = self.spec(harness);
        let restored = harness.backend().restore(&self.files, &spec);
        Running::meet(harness, bounded(harness, "restore", restored).await??)
    }
}

async fn goes_on(harness: &dyn Harness, captured: &Captured) -> Outcome {
    let mut fork = captured.fork(harness).await?;
    let next = fork.guest.tick()?;
    ensure(next > captured.last, || {
        format!("the guest said {} before and {next} after", captured.last)
    })
}

pub(super) async fn a_restored_guest_goes_on_where_it_was_captured(
    harness: &dyn Harness,
) -> Outcome {
    if !captures(harness) {
        return Ok(());
    }
    let captured = capture(harness, false).await?;
    goes_on(harness, &captured).await
}

pub(super) async fn a_capture_into_shared_memory_restores_too(harness: &dyn Harness) -> Outcome {
    if !captures(harness) {
        return Ok(());
    }
    let captured = capture(harness, true).await?;
    goes_on(harness, &captured).await
}

pub(super) async fn forks_of_one_snapshot_are_independent(harness: &dyn Harness) -> Outcome {
    if !harness.backend().capabilities().fork {
        return Ok(());
    }
    let captured = capture(harness, true).await?;
    let mut first = captured.fork(harness).await?;
    let mut second = captured.fork(harness).await?;
    // What one counts must not show in the other.
    let start = second.guest.tick()?;
    for _ in 0..100 {
        first.guest.tick()?;
    }
    bounded(harness, "pause", second.machine.pause()).await??;
    first.guest.tick()?;
    bounded(harness, "resume", second.machine.resume()).await??;
    bounded(harness, "kill", first.machine.kill()).await??;
    let next = second.guest.tick()?;
    ensure(next == start + 1, || {
        format!("a fork said {start}, then {next}")
    })?;
    let mut third = captured.fork(harness).await?;
    let fresh = third.guest.tick()?;
    ensure(fresh > captured.last && fresh != next, || {
        format!("a later fork begins at {fresh}, after {}", captured.last)
    })
}

pub(super) async fn forks_leave_the_snapshot_as_it_was(harness: &dyn Harness) -> Outcome {
    if !harness.backend().capabilities().fork {
        return Ok(());
    }
    let captured = capture(harness, true).await?;
    let before = (
        digest(&captured.files.memory)?,
        digest(&captured.files.state)?,
    );
    let mut fork = captured.fork(harness).await?;
    fork.guest.tick()?;
    if harness.backend().capabilities().balloon {
        // A guest that gives memory back must give back its own, not the snapshot's.
        let half = captured.spec.memory_mib / 2;
        bounded(harness, "balloon", fork.machine.balloon(half)).await??;
        for _ in 0..20 {
            fork.guest.tick()?;
        }
    }
    bounded(harness, "kill", fork.machine.kill()).await??;
    let after = (
        digest(&captured.files.memory)?,
        digest(&captured.files.state)?,
    );
    ensure(before == after, || {
        "a fork changed its snapshot's files".to_owned()
    })
}

fn digest(path: &Path) -> std::io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => buffer[..count].hash(&mut hasher),
        }
    }
}

pub(super) async fn only_a_paused_machine_is_captured(harness: &dyn Harness) -> Outcome {
    if !captures(harness) {
        return Ok(());
    }
    let dir = harness.directory();
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    let mut running = Running::start(harness, &harness.spec()).await?;
    let result = bounded(harness, "snapshot", running.machine.snapshot(files)).await?;
    refused(
        "capturing a running machine",
        result,
        &[ErrorKind::WrongState],
    )?;
    let left = fs::read_dir(&dir)?.count();
    ensure(left == 0, || "a refused capture left files".to_owned())?;
    running.guest.tick()?;
    Ok(())
}

pub(super) async fn damaged_snapshots_are_refused_by_kind(harness: &dyn Harness) -> Outcome {
    if !captures(harness) {
        return Ok(());
    }
    let captured = capture(harness, false).await?;
    let parent = harness.directory();
    for path in [&captured.files.state, &captured.files.memory] {
        let whole = fs::read(path)?;
        let half = &whole[..whole.len() / 2];
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        // Memory is too large to be checked by content at each restore.
        let is_state = *path == captured.files.state;
        let damages = [Some(half), Some(&[][..]), is_state.then_some(&changed[..])];
        for damage in damages.into_iter().flatten() {
            fs::write(path, damage)?;
            let mut spec = captured.spec(harness);
            spec.run_dir = parent.join("run");
            let result = harness.backend().restore(&captured.files, &spec);
            let result = bounded(harness, "restore", result).await?;
            refused(
                "restoring a damaged file",
                result,
                &[ErrorKind::BadSnapshot],
            )?;
            ensure(fs::read(path)? == damage, || {
                "it changed the damaged file".to_owned()
            })?;
        }
        fs::remove_file(path)?;
        let spec = captured.spec(harness);
        let result = bounded(
            harness,
            "restore",
            harness.backend().restore(&captured.files, &spec),
        )
        .await?;
        refused(
            "restoring a missing file",
            result,
            &[ErrorKind::BadSnapshot],
        )?;
        fs::write(path, whole)?;
    }
    let left = harness.backend().list(parent).await?;
    ensure(left.iter().all(|info| !info.alive), || {
        format!("it left {left:?}")
    })?;
    goes_on(harness, &captured).await
}

pub(super) async fn a_snapshot_fits_only_its_own_shape(harness: &dyn Harness) -> Outcome {
    if !captures(harness) {
        return Ok(());
    }
    let captured = capture(harness, false).await?;
    let mut more = captured.spec(harness);
    more.vcpus += 1;
    let mut larger = captured.spec(harness);
    larger.memory_mib *= 2;
    for spec in [more, larger] {
        let result = bounded(
            harness,
            "restore",
            harness.backend().restore(&captured.files, &spec),
        )
        .await?;
        refused("restoring another shape", result, &[ErrorKind::BadSnapshot])?;
    }
    Ok(())
}

pub(super) async fn what_a_restored_machine_touched_is_within_its_memory(
    harness: &dyn Harness,
) -> Outcome {
    if !captures(harness) {
        return Ok(());
    }
    let Running { machine, .. } = Running::start(harness, &harness.spec()).await?;
    let touched = bounded(harness, "look", machine.touched_memory()).await??;
    ensure(touched.is_none(), || {
        "a machine that was not restored says what it touched of a file".to_owned()
    })?;
    drop(machine);
    let captured = capture(harness, false).await?;
    let mut fork = captured.fork(harness).await?;
    fork.guest.tick()?;
    let touched = bounded(harness, "look", fork.machine.touched_memory()).await??;
    let Some(touched) = touched else {
        return Ok(());
    };
    let memory_bytes = u64::from(captured.spec.memory_mib) << 20;
    let in_order = touched.windows(2).all(|pair| pair[0].end < pair[1].start);
    let within = touched
        .iter()
        .all(|range| !range.is_empty() && range.end <= memory_bytes);
    ensure(in_order && within && !touched.is_empty(), || {
        format!("of {memory_bytes} bytes it touched {touched:?}")
    })
}
