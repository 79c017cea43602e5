//! From start to end.

use std::time::Duration;

use cofferdam_types::Signal;

use super::{
    Harness, Outcome, Running,
    clock::{both, bounded},
    outcome::{ensure, refused},
};
use crate::{ErrorKind, LogKind, Machine, MachineStatus};

/// SIGKILL's number on every Linux.
const SIGKILL: i32 = 9;

fn status_is(machine: &dyn Machine, expected: MachineStatus) -> Outcome {
    let status = machine.status();
    ensure(status == expected, || {
        format!("status is {status:?}, not {expected:?}")
    })
}

pub(super) async fn a_started_machine_runs_and_answers(harness: &dyn Harness) -> Outcome {
    let spec = harness.spec();
    let mut running = Running::start(harness, &spec).await?;
    ensure(running.machine.id() == spec.id, || {
        "the id is another".to_owned()
    })?;
    ensure(running.machine.pid() != 0, || {
        "there is no process id".to_owned()
    })?;
    status_is(&*running.machine, MachineStatus::Running)?;
    ensure(running.machine.exit_status().is_none(), || {
        "it has ended already".to_owned()
    })?;
    let (first, second) = (running.guest.tick()?, running.guest.tick()?);
    ensure(second > first, || {
        format!("the guest said {first}, then {second}")
    })?;
    bounded(harness, "kill", running.machine.kill()).await??;
    Ok(())
}

pub(super) async fn the_agent_channel_can_be_taken_once(harness: &dyn Harness) -> Outcome {
    let running = Running::start(harness, &harness.spec()).await?;
    let again = running.machine.agent_channel();
    refused("taking the channel twice", again, &[ErrorKind::WrongState])
}

pub(super) async fn a_killed_machine_ends_by_its_signal_for_everyone_who_waits(
    harness: &dyn Harness,
) -> Outcome {
    let Running { machine, .. } = Running::start(harness, &harness.spec()).await?;
    let waits = async { both(machine.wait(), machine.wait()).await };
    let kills = async { both(machine.kill(), machine.kill()).await };
    let ((first, second), (third, fourth)) =
        bounded(harness, "the end", both(waits, kills)).await?;
    let later = bounded(harness, "a later wait", machine.wait()).await?;
    let killed_again = bounded(harness, "a later kill", machine.kill()).await??;
    for exit in [&second, &third?, &fourth?, &later, &killed_again] {
        ensure(*exit == first, || {
            format!("it ended by {first:?} and by {exit:?}")
        })?;
    }
    ensure(
        first.signal == Some(SIGKILL) && first.code.is_none(),
        || format!("a killed machine ended by {first:?}"),
    )?;
    ensure(machine.exit_status() == Some(first), || {
        "the exit status differs".to_owned()
    })?;
    status_is(&*machine, MachineStatus::Exited)
}

pub(super) async fn a_stopped_machine_ends_within_the_time_given(harness: &dyn Harness) -> Outcome {
    // A paused guest hears no signal; the time-out must still end it.
    for (signal, limit) in [
        (Signal::TERM, Duration::from_secs(10)),
        (Signal::TERM, Duration::ZERO),
    ] {
        let Running { machine, .. } = Running::start(harness, &harness.spec()).await?;
        let exit = bounded(harness, "stop", machine.stop(signal, limit)).await??;
        ensure(exit.code.is_some() != exit.signal.is_some(), || {
            format!("a stopped machine ended by {exit:?}")
        })?;
        let again = bounded(harness, "a second stop", machine.stop(signal, limit)).await??;
        ensure(again == exit, || {
            format!("it ended by {exit:?} and by {again:?}")
        })?;
        status_is(&*machine, MachineStatus::Exited)?;
    }
    Ok(())
}

pub(super) async fn a_paused_guest_is_silent_and_goes_on_after_resume(
    harness: &dyn Harness,
) -> Outcome {
    let Running { machine, mut guest } = Running::start(harness, &harness.spec()).await?;
    if !harness.backend().capabilities().pause_resume {
        refused("pause", machine.pause().await, &[ErrorKind::Unsupported])?;
        return refused("resume", machine.resume().await, &[ErrorKind::Unsupported]);
    }
    let before = guest.tick()?;
    for _ in 0..2 {
        bounded(harness, "pause", machine.pause()).await??;
        status_is(&*machine, MachineStatus::Paused)?;
    }
    ensure(guest.is_silent()?, || "a paused guest answered".to_owned())?;
    for _ in 0..2 {
        bounded(harness, "resume", machine.resume()).await??;
        status_is(&*machine, MachineStatus::Running)?;
    }
    let after = guest.tick()?;
    ensure(after > before, || {
        format!("the guest said {before}, then {after}")
    })
}

pub(super) async fn calls_on_a_machine_that_has_ended_say_that_it_is_gone(
    harness: &dyn Harness,
) -> Outcome {
    let Running { machine, .. } = Running::start(harness, &harness.spec()).await?;
    bounded(harness, "kill", machine.kill()).await??;
    let kinds = [ErrorKind::Gone, ErrorKind::Unsupported];
    refused(
        "pause",
        bounded(harness, "pause", machine.pause()).await?,
        &kinds,
    )?;
    refused(
        "resume",
        bounded(harness, "resume", machine.resume()).await?,
        &kinds,
    )?;
    refused("metrics", machine.metrics(), &[ErrorKind::Gone])?;
    machine.logs(10, LogKind::Vmm)?;
    Ok(())
}

pub(super) async fn dropping_the_last_handle_kills_the_machine(harness: &dyn Harness) -> Outcome {
    let spec = harness.spec();
    let Running { machine, .. } = Running::start(harness, &spec).await?;
    let attached = harness.backend().attach(spec.run_dir.clone()).await?;
    drop(machine);
    bounded(harness, "the end after the drop", attached.wait()).await?;
    status_is(&*attached, MachineStatus::Exited)
}

pub(super) async fn metrics_grow_and_logs_are_bounded_by_the_lines_asked_for(
    harness: &dyn Harness,
) -> Outcome {
    let Running { machine, mut guest } = Running::start(harness, &harness.spec()).await?;
    let first = machine.metrics()?;
    guest.tick()?;
    let second = machine.metrics()?;
    ensure(second.memory_bytes > 0, || "it uses no memory".to_owned())?;
    ensure(second.cpu_time_ms >= first.cpu_time_ms, || {
        format!(
            "processor time went from {} to {}",
            first.cpu_time_ms, second.cpu_time_ms
        )
    })?;
    ensure(
        second.cpu_percent.is_finite() && second.cpu_percent >= 0.0,
        || format!("it uses {} percent", second.cpu_percent),
    )?;
    for kind in [LogKind::Console, LogKind::Vmm] {
        for lines in [0, 1] {
            let count = machine.logs(lines, kind)?.len();
            ensure(count <= lines, || {
                format!("{lines} lines asked for, {count} given")
            })?;
        }
    }
    Ok(())
}
