//! What is done with machines whose owner is gone, and with their traces.

use super::{
    Harness, Outcome, Running,
    clock::bounded,
    outcome::{ensure, refused},
};
use crate::{DiagnosisKind, ErrorKind, Failure, MachineEnd, MachineStatus};

pub(super) async fn what_a_dead_owner_left_is_reaped_and_nothing_else(
    harness: &dyn Harness,
) -> Outcome {
    let (backend, parent) = (harness.backend(), harness.directory());
    let mut specs = [harness.spec(), harness.spec()];
    for (spec, name) in specs.iter_mut().zip(["lost", "other"]) {
        spec.run_dir = parent.join(name);
    }
    let lost = Running::start(harness, &specs[0]).await?;
    let mut other = Running::start(harness, &specs[1]).await?;
    // A dead owner does nothing any more; this one does nothing while its machine is reaped.
    backend.reap(&specs[0].run_dir)?;
    bounded(harness, "the end of a reaped machine", lost.machine.wait()).await?;
    other.guest.tick()?;
    let left = backend.list(parent.clone()).await?;
    let left: Vec<_> = left.iter().map(|info| &info.run_dir).collect();
    ensure(left == [&specs[1].run_dir], || {
        format!("after a reap these are listed: {left:?}")
    })?;
    let gone = backend.attach(specs[0].run_dir.clone()).await;
    refused("attaching to a reaped machine", gone, &[ErrorKind::Gone])?;
    // Again, and where there was no machine: nothing to do is no error.
    backend.reap(&specs[0].run_dir)?;
    backend.reap(&parent.join("none"))?;
    bounded(harness, "kill", other.machine.kill()).await??;
    // The record of one that has ended goes too.
    backend.reap(&specs[1].run_dir)?;
    let left = backend.list(parent).await?;
    ensure(left.is_empty(), || {
        format!("reaped machines are listed: {left:?}")
    })
}

pub(super) async fn a_moved_machine_is_found_in_its_new_directory_only(
    harness: &dyn Harness,
) -> Outcome {
    let (backend, parent) = (harness.backend(), harness.directory());
    let mut spec = harness.spec();
    spec.run_dir = parent.join("before");
    let mut running = Running::start(harness, &spec).await?;
    let after = parent.join("after");
    std::fs::create_dir(&after)?;
    running.machine.move_to(&after)?;
    running.guest.tick()?;
    let gone = backend.attach(spec.run_dir.clone()).await;
    refused("attaching where it was", gone, &[ErrorKind::Gone])?;
    let attached = backend.attach(after.clone()).await?;
    let moved = attached.move_to(&spec.run_dir);
    refused(
        "moving by an attached handle",
        moved,
        &[ErrorKind::WrongState],
    )?;
    backend.reap(&after)?;
    bounded(harness, "the end of a reaped machine", attached.wait()).await?;
    // Each handle learns of it by itself.
    bounded(
        harness,
        "the end of a reaped machine",
        running.machine.wait(),
    )
    .await?;
    let status = running.machine.status();
    ensure(status == MachineStatus::Exited, || {
        format!("a reaped machine is {status:?}")
    })
}

pub(super) async fn failures_have_a_diagnosis_that_no_guest_can_word(
    harness: &dyn Harness,
) -> Outcome {
    let backend = harness.backend();
    let console = "[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs \u{1b}[2J";
    let of = |console_tail, end| {
        backend.diagnose(&Failure {
            console_tail,
            vmm_tail: "",
            end,
        })
    };
    for (console, end, kind) in [
        (
            console,
            MachineEnd::Exited(0),
            DiagnosisKind::NoRootFilesystem,
        ),
        (
            console,
            MachineEnd::StillRunning,
            DiagnosisKind::NoRootFilesystem,
        ),
        (
            "booting",
            MachineEnd::Killed(9),
            DiagnosisKind::KilledByHost,
        ),
        ("booting", MachineEnd::Killed(11), DiagnosisKind::VmmCrash),
        ("", MachineEnd::StillRunning, DiagnosisKind::Silent),
    ] {
        let found = of(console, end);
        let Some(found) = found.filter(|found| found.kind == kind) else {
            return ensure(false, || format!("{console:?} {end:?} is not {kind:?}"));
        };
        let is_clean = |text: &str| !text.contains(char::is_control);
        ensure(
            !found.client.contains("Kernel panic") && is_clean(&found.operator),
            || format!("the guest's words are in {found:?}"),
        )?;
    }
    let nothing = of("booting", MachineEnd::Exited(0));
    ensure(nothing.is_none(), || {
        format!("traces that show nothing are {nothing:?}")
    })
}
