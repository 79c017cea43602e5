//! `coffer exec` and `coffer attach`: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{Read, Write},
    process::Stdio,
    thread,
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::until,
};

#[test]
fn exec_joins_the_workload_and_tells_exact_exit_codes() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    assert_eq!(sandbox.exec(&["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(sandbox.exec(&["--", "true"]).code, 0);
    assert_eq!(sandbox.exec(&["no-such-program"]).code, 127);
    assert_eq!(sandbox.exec(&["/etc/passwd"]).code, 126);
    assert_eq!(sandbox.exec(&["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(sandbox.exec(&["sh", "-c", "kill -15 $$"]).code, 143);
    let ps = sandbox.exec(&["ps"]).text();
    assert!(ps.contains("sleep 1000000"), "{ps}");
}

#[test]
fn exec_flags_change_user_directory_and_environment() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let script = "id -un; pwd; echo $X";
    let args = [
        "exec",
        "-u",
        "app",
        "-w",
        "/tmp",
        "-e",
        "X=1",
        &sandbox.id,
        "sh",
        "-c",
        script,
    ];
    assert_eq!(coffer.ok(args), "app\n/tmp\n1");
}

#[test]
fn only_the_workloads_working_directory_is_made() {
    let coffer = Coffer::shared();
    let script = "stat -c '%a %u' . && exec sleep 1000000";
    let sandbox = coffer.detached(&["-w", "/made/here", BUSYBOX, "sh", "-c", script]);
    let misspelt = coffer.run(["exec", "-w", "/made/hree", &sandbox.id, "pwd"]);
    assert_ne!(misspelt.code, 0, "{misspelt:?}");
    assert!(
        misspelt.stderr.contains("`/made/hree`") && misspelt.stderr.contains("No such file"),
        "{misspelt:?}"
    );
    assert_eq!(sandbox.sh("pwd; ls /made"), "/made/here\nhere");
    until("the workload's output", || {
        coffer.ok(["logs", &sandbox.id]) == "755 0"
    });
}

#[test]
fn exec_input_is_exact_and_ends() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let input: Vec<u8> = (0..5_000_000_u32)
        .map(|n| n.to_le_bytes()[(n % 4) as usize])
        .collect();
    let done = coffer.run_with_input(["exec", "-i", &sandbox.id, "cat"], &input);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout == input,
        "{} bytes of {}",
        done.stdout.len(),
        input.len()
    );
}

#[test]
fn a_grandchild_that_holds_the_output_delays_nobody() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let done = sandbox.exec(&["sh", "-c", "sleep 100000 & echo started"]);
    assert_eq!((done.code, done.text().as_str()), (0, "started"));
    assert!(sandbox.exec(&["ps"]).text().contains("sleep 100000"));
}

#[test]
fn many_commands_at_once_do_not_mix() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    thread::scope(|scope| {
        for number in 0..16 {
            let (coffer, id) = (&coffer, &sandbox.id);
            scope.spawn(move || {
                let script = format!("for i in $(seq 200); do echo {number}; done; exit {number}");
                let done = coffer.run(["exec", id, "sh", "-c", &script]);
                assert_eq!(done.code, number);
                assert_eq!(done.text(), format!("{number}\n").repeat(200).trim());
            });
        }
    });
}

#[test]
fn a_client_that_is_killed_or_slow_harms_nobody() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let flood = [
        "exec",
        &sandbox.id,
        "sh",
        "-c",
        "while :; do echo flood; done",
    ];
    let mut slow = coffer
        .command(flood)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    slow.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    // It holds the pipe and reads no more; others go on.
    assert_eq!(sandbox.exec(&["echo", "fine"]).text(), "fine");
    slow.kill().unwrap();
    slow.wait().unwrap();
    assert_eq!(sandbox.exec(&["echo", "still fine"]).text(), "still fine");
}

#[test]
fn exec_gives_a_terminal_and_detaches() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let script = "test -t 0 && test -t 1 && echo yes";
    assert_eq!(
        coffer.ok(["exec", "-t", &sandbox.id, "sh", "-c", script]),
        "yes"
    );
    assert_eq!(
        coffer
            .run(["exec", "-d", &sandbox.id, "touch", "/detached"])
            .code,
        0
    );
    let wait = "while ! test -e /detached; do sleep 0.05; done; echo there";
    assert_eq!(sandbox.exec(&["sh", "-c", wait]).text(), "there");
}

#[test]
fn an_interrupt_reaches_the_command() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = coffer
        .command(["exec", &sandbox.id, "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn exec_in_a_sandbox_that_does_not_run_says_so() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["create", BUSYBOX, "true"]);
    let done = coffer.run(["exec", &id, "true"]);
    assert_ne!(done.code, 0);
    assert!(
        done.stderr.contains("created") && done.stderr.contains("hint"),
        "{done:?}"
    );
    coffer.ok(["rm", &id]);
}

#[test]
fn attach_follows_the_workload_and_its_exit_code() {
    let coffer = Coffer::shared();
    let script = "read line; echo got $line; exit 9";
    let id = coffer.ok(["run", "-d", "-i", BUSYBOX, "sh", "-c", script]);
    let mut child = coffer
        .command(["attach", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "got hello");
    assert_eq!(output.status.code(), Some(9));
    coffer.ok(["rm", &id]);
}
