//! What QEMU's machines do beyond the contract, with the real kernel and agent.

#![allow(clippy::unwrap_used, reason = "tests")]

mod guest;

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use cofferdam_backend::{Backend, ErrorKind, LogKind, contract::Harness};
use cofferdam_qemu::{KvmUsable, QemuBackend};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A test that is another test's process: it starts a machine and waits to be killed.
const HOLD: &str = "COFFER_TEST_HOLD_A_MACHINE";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_panics_ends_its_machine_and_its_words_are_kept() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let mut spec = harness.spec();
    spec.initrd = None;
    let machine = harness.backend().start(&spec).await.unwrap();
    let exit = machine.wait().await;
    assert_eq!((exit.code, exit.signal), (Some(0), None));
    let console = machine.logs(200, LogKind::Console).unwrap().join("\n");
    assert!(console.contains("Kernel panic"), "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_dies_with_the_process_that_started_it() {
    let Some(harness) = guest::harness() else {
        return;
    };
    if std::env::var_os(HOLD).is_some() {
        let machine = harness.backend().start(&harness.spec()).await.unwrap();
        println!("\nmachine {}", machine.pid());
        std::future::pending::<()>().await;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_machine_dies_with_the_process_that_started_it",
            "--nocapture",
        ])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("machine ")?.parse().ok())
        .unwrap();
    let machine = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(ends(&machine), "the machine lives on");
}

/// Whether a process ends within a time that is long for a kill.
fn ends(process: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

/// A QEMU that tells a version and then fails as `script` does.
fn broken_qemu(dir: &Path, script: &str) -> QemuBackend {
    let path = dir.join("qemu");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *-version*) echo 'QEMU emulator version 7.2.0'; exit;; esac\n\
         {script}\n"
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    QemuBackend::tcg().with_program(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_fails_at_once_is_a_failed_start_with_its_own_words() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let backend = broken_qemu(dir.path(), "echo 'out of luck' >&2; exit 1");
    let error = backend.start(&harness.spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StartFailed);
    assert!(error.to_string().contains("out of luck"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kvm_that_cannot_be_used_is_refused_at_once_by_its_reason() {
    let fixes = Vec::new();
    let reason = "KVM here runs no stock kernel".to_owned();
    let backend = QemuBackend::kvm(KvmUsable::No {
        reason: reason.clone(),
        fixes,
    });
    assert!(!backend.probe().usable);
    let Some(harness) = guest::harness() else {
        return;
    };
    let error = backend.start(&harness.spec()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Unavailable, reason)
    );
    assert!(error.hint_text().is_some());
}

#[test]
fn machines_of_a_runtime_that_is_gone_are_gone() {
    let Some(harness) = guest::harness() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let machine = runtime
        .block_on(harness.backend().start(&harness.spec()))
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(machine.pid()).unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    drop(runtime);
    drop(machine);
    assert!(ends(&process));
}
