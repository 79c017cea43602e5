//! Captures of machines that live on: what is in them is of one moment. Backends without them have
//! nothing to prove here.

use std::fs::{self, File};

use super::{
    BLOCK_BYTES, Harness, Outcome, ROUND_BLOCKS,
    clock::bounded,
    outcome::ensure,
    writer::{BEFORE, Began, KINDS, PAGES, Writer, captures_live, plan, settle},
};
use crate::MachineStatus;

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
    for began in KINDS {
        let mut writer = Writer::begin_as(harness, began).await?;
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
        writer.holds("the captured machine", 3)?;
    }
    Ok(())
}

pub(super) async fn a_capture_that_has_caught_up_is_of_the_moment_too(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    for began in KINDS {
        let mut writer = Writer::begin_as(harness, began).await?;
        let write = |writer: &mut Writer, word: u64| {
            writer.guest.fill(PAGES, word)?;
            writer.guest.write_block(0, word)
        };
        write(&mut writer, 71)?;
        let (plan, taken) = plan(&harness.directory());
        let mut capture = writer.begin(harness, &plan).await?;
        for word in [72, 73] {
            write(&mut writer, word)?;
            bounded(harness, "fits", capture.fits()).await??;
            bounded(harness, "catch_up", capture.catch_up()).await??;
        }
        write(&mut writer, 74)?;
        writer.pause(harness).await?;
        bounded(harness, "take", capture.take()).await??;
        let again = bounded(harness, "catch_up", capture.catch_up()).await?;
        ensure(again.is_err(), || {
            "it catches up with a moment that was taken".to_owned()
        })?;
        writer.resume(harness).await?;
        write(&mut writer, 75)?;
        settle(harness, capture).await?;
        let mut restored = writer.restore(harness, &taken).await?;
        restored.holds("the capture", 74)?;
        restored.reads("the capture", 0, 74)?;
        writer.holds("the captured machine", 75)?;
    }
    Ok(())
}

pub(super) async fn zeroes_over_what_was_there_are_captured(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    for began in KINDS {
        // A restored machine's snapshot has something there already.
        let mut writer = Writer::begin_as(harness, began).await?;
        writer.guest.fill(PAGES, 0)?;
        let early = writer.capture(harness).await?;
        writer.guest.fill(PAGES, BEFORE)?;
        let (plan, late) = plan(&harness.directory());
        let mut capture = writer.begin(harness, &plan).await?;
        writer.guest.fill(PAGES, 0)?;
        writer.pause(harness).await?;
        bounded(harness, "take", capture.take()).await??;
        writer.resume(harness).await?;
        writer.guest.fill(PAGES, BEFORE)?;
        settle(harness, capture).await?;
        for taken in [early, late] {
            let mut restored = writer.restore(harness, &taken).await?;
            restored.holds("the capture", 0)?;
        }
    }
    Ok(())
}

pub(super) async fn a_disk_is_captured_as_it_was_at_the_moment(harness: &dyn Harness) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    for began in KINDS {
        let mut writer = Writer::begin_as(harness, began).await?;
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
    }
    Ok(())
}

pub(super) async fn disk_and_memory_are_of_one_moment_while_the_guest_writes(
    harness: &dyn Harness,
) -> Outcome {
    if !captures_live(harness) {
        return Ok(());
    }
    for began in KINDS {
        let mut writer = Writer::begin_as(harness, began).await?;
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
        writer.rounds("the machine", ROUND_BLOCKS + 1)?;
    }
    Ok(())
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
        writer.guest.fill(PAGES, 1 + generation)?;
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
        child.holds(&who, 1 + generation)?;
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
        writer.guest.fill(PAGES, 1 + moment)?;
        writer.guest.write_block(0, 60 + moment)?;
        taken.push(writer.capture(harness).await?);
    }
    for (moment, taken) in (0..).zip(&taken) {
        let mut restored = writer.restore(harness, taken).await?;
        restored.holds("a capture", 1 + moment)?;
        restored.reads("a capture", 0, 60 + moment)?;
    }
    writer.holds("the captured machine", 2)
}
