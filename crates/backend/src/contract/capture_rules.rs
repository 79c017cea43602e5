//! Captures of machines that live on: what is refused, and what a capture that comes to nothing
//! leaves. Backends without them have nothing to prove here.

use std::fs;

use super::{
    Harness, Outcome, ROUND_BLOCKS,
    clock::bounded,
    outcome::{ensure, refused},
    writer::{KINDS, PAGES, Writer, captures_live, is_empty, plan, settle},
};
use crate::{CapturePlan, ErrorKind, MachineStatus, SnapshotFiles};

pub(super) async fn a_dropped_capture_leaves_no_file_and_the_machine_as_it_was(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    for began in KINDS {
        let mut writer = Writer::begin_as(harness, began).await?;
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
        restored.rounds("a capture after dropped ones", ROUND_BLOCKS + 1)?;
    }
    Ok(())
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
