//! The file channel: a second port beside the agent's. Backends without one have nothing to prove
//! here.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

use super::{
    Harness, Outcome, Running, Violation,
    clock::bounded,
    outcome::{ensure, refused},
    snapshots::capture_of,
};
use crate::{ErrorKind, Machine, MachineSpec};

/// More than any buffer on the way, and no whole number of pages.
const SENT_BYTES: usize = (1 << 20) + 7;

fn spec(harness: &dyn Harness) -> MachineSpec {
    MachineSpec {
        file_channel: true,
        ..harness.spec()
    }
}

fn channel(harness: &dyn Harness, machine: &dyn Machine) -> Result<UnixStream, Violation> {
    let stream = machine.file_channel()?;
    stream.set_read_timeout(Some(harness.limit()))?;
    stream.set_write_timeout(Some(harness.limit()))?;
    Ok(stream)
}

/// Sends bytes, which the guest sends back.
fn there_and_back(channel: &mut UnixStream, seed: u8) -> Outcome {
    let cycle = (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(seed));
    let sent: Vec<u8> = cycle.take(SENT_BYTES).collect();
    let mut back = vec![0; SENT_BYTES];
    let mut writer = channel.try_clone()?;
    thread::scope(|scope| {
        let writes = scope.spawn(|| writer.write_all(&sent));
        let read = channel.read_exact(&mut back);
        let written = writes.join();
        read?;
        written.map_err(|_| Violation::new("the writer panicked"))??;
        Ok::<(), Violation>(())
    })?;
    ensure(back == sent, || "other bytes came back".to_owned())
}

pub(super) async fn bytes_go_through_the_file_channel_beside_the_agents(
    harness: &dyn Harness,
) -> Outcome {
    if !harness.backend().capabilities().file_channel {
        return Ok(());
    }
    let kinds = [ErrorKind::WrongState];
    let without = Running::start(harness, &harness.spec()).await?;
    let none = without.machine.file_channel();
    refused("the file channel of a machine without one", none, &kinds)?;
    let mut running = Running::start(harness, &spec(harness)).await?;
    let mut files = channel(harness, &*running.machine)?;
    let again = running.machine.file_channel();
    refused("taking the file channel twice", again, &kinds)?;
    there_and_back(&mut files, 1)?;
    running.guest.tick()?;
    there_and_back(&mut files, 3)?;
    bounded(harness, "kill", running.machine.kill()).await??;
    Ok(())
}

pub(super) async fn restored_machines_have_file_channels_of_their_own(
    harness: &dyn Harness,
) -> Outcome {
    let can = harness.backend().capabilities();
    if !can.file_channel || !can.fork {
        return Ok(());
    }
    let captured = capture_of(harness, spec(harness), true).await?;
    let mut first = captured.fork(harness).await?;
    let second = captured.fork(harness).await?;
    let mut first_files = channel(harness, &*first.machine)?;
    let mut second_files = channel(harness, &*second.machine)?;
    there_and_back(&mut first_files, 1)?;
    there_and_back(&mut second_files, 3)?;
    drop(second_files);
    there_and_back(&mut first_files, 5)?;
    first.guest.tick()?;
    let other = MachineSpec {
        file_channel: false,
        ..captured.spec(harness)
    };
    let restored = harness.backend().restore(&captured.files, &other);
    let restored = bounded(harness, "restore", restored).await?;
    refused(
        "restoring without the file channel",
        restored,
        &[ErrorKind::BadSnapshot],
    )
}
