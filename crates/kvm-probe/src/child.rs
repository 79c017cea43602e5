//! The host check in a process of its own, so that a kernel that gets stuck in `KVM_RUN` costs the
//! caller a bounded wait and nothing else.
//!
//! Called by the process that wants the finding, with a command that prints the JSON of
//! [`crate::probe_in_process`] on its standard output.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::finding::{KvmFinding, KvmVerdict};

/// Longest JSON that a child may print; a finding takes about 1 KiB.
const MAX_JSON_BYTES: u64 = 64 * 1024;

/// Runs `command` and reads the finding from its standard output. Whatever goes wrong with the
/// child is a finding too: [`KvmVerdict::Broken`] with the reason.
///
/// # Blocking
/// For at most about `limit`; then the child is killed.
#[must_use]
pub fn probe_in_child(command: &mut Command, limit: Duration) -> KvmFinding {
    let started = Instant::now();
    let mut finding = run(command, limit).unwrap_or_else(|reason| {
        KvmFinding::without_guest(
            KvmVerdict::Broken,
            format!("KVM could not be tried: {reason}"),
        )
    });
    if finding.elapsed_us == 0 {
        finding.elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    }
    finding
}

fn run(command: &mut Command, limit: Duration) -> Result<KvmFinding, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the probe did not start: {error}"))?;
    let output = read_output(&mut child, limit);
    // Killed in every case: one that has printed its finding has nothing left to do. It is reaped
    // on a thread, because a process that is stuck in the kernel cannot be reaped.
    let _ = child.kill();
    let reaper = thread::Builder::new().name("kvm-probe-reaper".to_owned());
    let _ = reaper.spawn(move || child.wait());
    let output = output?;
    serde_json::from_slice(&output).map_err(|error| format!("the probe's answer is wrong: {error}"))
}

fn read_output(child: &mut Child, limit: Duration) -> Result<Vec<u8>, String> {
    let Some(stdout) = child.stdout.take() else {
        return Err("the probe has no standard output".to_owned());
    };
    let (sender, receiver) = mpsc::channel();
    let reader = thread::Builder::new().name("kvm-probe-reader".to_owned());
    reader
        .spawn(move || {
            let mut output = Vec::new();
            let read = stdout.take(MAX_JSON_BYTES).read_to_end(&mut output);
            // Nobody listens any more once the limit has passed.
            let _ = sender.send(read.map(|_| output));
        })
        .map_err(|error| format!("no thread could be started: {error}"))?;
    match receiver.recv_timeout(limit) {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("the probe's answer could not be read: {error}")),
        Err(_) => Err(format!("the probe gave no answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stderr(Stdio::null());
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_childs_finding_comes_through_unchanged() {
        let mut sent = KvmFinding::without_guest(KvmVerdict::Absent, "There is none");
        sent.elapsed_us = 5;
        let mut command = shell("printf %s \"$FINDING\"");
        command.env("FINDING", serde_json::to_string(&sent).unwrap());
        assert_eq!(probe_in_child(&mut command, LONG), sent);
    }

    #[test]
    fn a_child_that_hangs_is_given_up_and_killed() {
        let started = Instant::now();
        let found = probe_in_child(&mut shell("exec sleep 600"), Duration::from_millis(50));
        assert_eq!(found.verdict, KvmVerdict::Broken);
        assert!(
            found.detail.contains("no answer within 50ms"),
            "{}",
            found.detail
        );
        assert!(started.elapsed() < LONG);
    }

    #[test]
    fn a_child_that_dies_or_talks_nonsense_is_a_broken_probe() {
        for script in ["exit 3", "kill -SEGV $$", "echo hello", "echo '{}'"] {
            let found = probe_in_child(&mut shell(script), LONG);
            assert_eq!(found.verdict, KvmVerdict::Broken, "{script}");
            assert!(found.detail.contains("answer is wrong"), "{}", found.detail);
        }
    }

    #[test]
    fn a_child_that_prints_without_end_is_cut_off() {
        let found = probe_in_child(&mut shell("exec yes"), LONG);
        assert_eq!(found.verdict, KvmVerdict::Broken);
    }

    #[test]
    fn a_program_that_is_not_there_is_a_broken_probe() {
        let found = probe_in_child(&mut Command::new("/nonexistent/probe"), LONG);
        assert_eq!(found.verdict, KvmVerdict::Broken);
        assert!(found.detail.contains("did not start"), "{}", found.detail);
    }
}
