//! `coffer pause` and `coffer unpause`: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    copies,
    sandboxes::{is_alive, kill, until},
};

/// Long enough for a workload that still runs to be seen running.
const A_WHILE: Duration = Duration::from_millis(300);

/// How long what must not hang may take; far more than it takes on a busy host, and far less
/// than the time-outs behind it.
const BOUND: Duration = Duration::from_secs(25);

/// Counts on its output, some hundred times a second.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; /bin/true; done";

fn lines(coffer: &Coffer, id: &str) -> usize {
    coffer.ok(["logs", id]).lines().count()
}

#[test]
fn a_paused_workload_makes_no_progress_and_goes_on_where_it_was() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script(COUNT);
    until("output", || lines(&coffer, &sandbox.id) > 3);
    assert_eq!(coffer.ok(["pause", &sandbox.id]), sandbox.id);
    let counted = lines(&coffer, &sandbox.id);
    let began = Instant::now();
    while began.elapsed() < A_WHILE {
        assert_eq!(lines(&coffer, &sandbox.id), counted);
    }
    assert_eq!(coffer.ok(["unpause", &sandbox.id]), sandbox.id);
    until("more output", || lines(&coffer, &sandbox.id) > counted);
    let logs = coffer.ok(["logs", &sandbox.id]);
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
    let all: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, all);
}

#[test]
fn a_paused_sandbox_takes_no_processor_time() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("while :; do :; done");
    let used = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
        // utime and stime: fields 14 and 15 of proc_pid_stat(5), counted from the name's.
        fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
    };
    coffer.ok(["pause", &sandbox.id]);
    let (machine, began) = (sandbox.machine(), Instant::now());
    let before = used(machine);
    while began.elapsed() < A_WHILE {
        assert_eq!(sandbox.status(), "paused");
    }
    // A tick or two for the monitor's own work; a spinning guest would have used thirty.
    let more = used(machine) - before;
    assert!(more <= 3, "{more} ticks");
    coffer.ok(["unpause", &sandbox.id]);
    until("work", || used(machine) > before + 5);
}

#[test]
fn exec_in_a_paused_sandbox_is_refused_with_what_to_do() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    coffer.ok(["pause", &sandbox.id]);
    let done = sandbox.exec(&["true"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains("is paused"), "{done:?}");
    assert!(done.stderr.contains("hint: "), "{done:?}");
    assert!(done.stderr.contains("coffer unpause"), "{done:?}");
    coffer.ok(["unpause", &sandbox.id]);
    assert_eq!(sandbox.exec(&["true"]).code, 0);
}

#[test]
fn ps_and_inspect_say_that_it_is_paused() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let row = || {
        let table = coffer.ok(["ps", "--no-trunc"]);
        let row = table.lines().find(|line| line.starts_with(&sandbox.id));
        row.unwrap().to_owned()
    };
    assert!(!row().contains("(Paused)"));
    coffer.ok(["pause", &sandbox.id]);
    assert!(row().contains("(Paused)"), "{}", row());
    assert_eq!(sandbox.status(), "paused");
    let paused = coffer.ok(["ps", "-q", "--no-trunc", "--filter", "status=paused"]);
    assert!(paused.lines().any(|id| id == sandbox.id), "{paused}");
    coffer.ok(["unpause", &sandbox.id]);
    assert!(!row().contains("(Paused)"));
    assert_eq!(sandbox.status(), "running");
}

#[test]
fn only_what_runs_is_paused_and_only_what_is_paused_goes_on() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    coffer.refused(
        &["unpause", &sandbox.id],
        &["is not paused", "coffer pause"],
    );
    coffer.ok(["start", &sandbox.id]);
    coffer.ok(["pause", &sandbox.id]);
    coffer.refused(&["pause", &sandbox.id], &["is paused already"]);
    coffer.refused(&["start", &sandbox.id], &["is paused", "coffer unpause"]);
    assert_eq!(sandbox.status(), "paused");
    coffer.ok(["kill", &sandbox.id]);
    coffer.refused(&["pause", &sandbox.id], &["is stopped", "hint: "]);
    coffer.refused(&["unpause", &sandbox.id], &["is stopped"]);
    let created = coffer.keep(coffer.ok(["create", BUSYBOX, "true"]));
    coffer.refused(&["pause", &created.id], &["is created", "hint: "]);
    coffer.refused(&["pause", "no-such-sandbox"], &["no sandbox"]);
}

#[test]
fn of_many_each_is_paused_and_those_that_cannot_be_are_named() {
    let coffer = Coffer::shared();
    let (one, other) = (coffer.sleeper(), coffer.sleeper());
    let done = coffer.run(["pause", &one.id, "no-such-sandbox", &other.id]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(done.text(), format!("{}\n{}", one.id, other.id));
    assert!(done.stderr.contains("no-such-sandbox"), "{done:?}");
    assert_eq!(
        (one.status(), other.status()),
        ("paused".into(), "paused".into())
    );
}

#[test]
fn a_paused_sandbox_that_is_stopped_runs_its_handler() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done");
    until("the trap", || lines(&coffer, &sandbox.id) > 0);
    coffer.ok(["pause", &sandbox.id]);
    let done = coffer.run(["stop", "-t", "60", &sandbox.id]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.elapsed < BOUND, "{done:?}");
    assert_eq!(sandbox.inspect()["exit_code"], 3);
}

#[test]
fn a_paused_sandbox_that_does_not_hear_its_stop_signal_is_killed_in_time() {
    let coffer = Coffer::shared();
    // PID 1 without a handler does not hear SIGTERM.
    let sandbox = coffer.sleeper();
    coffer.ok(["pause", &sandbox.id]);
    let done = coffer.run(["stop", "-t", "1", &sandbox.id]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.elapsed < BOUND, "{done:?}");
    assert_eq!(sandbox.inspect()["exit_code"], 137);
}

#[test]
fn a_signal_to_a_paused_sandbox_is_there_when_it_goes_on() {
    let coffer = Coffer::shared();
    let script = "trap 'echo heard' USR1; echo up; while :; do sleep 0.05; done";
    let sandbox = coffer.script(script);
    until("the trap", || lines(&coffer, &sandbox.id) == 1);
    coffer.ok(["pause", &sandbox.id]);
    coffer.ok(["kill", "-s", "USR1", &sandbox.id]);
    assert_eq!(sandbox.status(), "paused");
    assert_eq!(coffer.ok(["logs", &sandbox.id]), "up");
    coffer.ok(["unpause", &sandbox.id]);
    until("an answer", || lines(&coffer, &sandbox.id) > 1);
    assert_eq!(coffer.ok(["logs", &sandbox.id]), "up\nheard");
}

#[test]
fn a_paused_sandbox_that_is_restarted_runs() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    coffer.ok(["pause", &sandbox.id]);
    let done = coffer.run(["restart", "-t", "0", &sandbox.id]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.elapsed < BOUND, "{done:?}");
    assert_eq!(sandbox.status(), "running");
    assert_eq!(sandbox.exec(&["true"]).code, 0);
}

#[test]
fn a_paused_sandbox_is_killed() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    coffer.ok(["pause", &sandbox.id]);
    let machine = sandbox.machine();
    let done = coffer.run(["kill", &sandbox.id]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.elapsed < BOUND, "{done:?}");
    assert_eq!(sandbox.status(), "stopped");
    assert_eq!(sandbox.inspect()["exit_code"], 137);
    until("the machine's end", || !is_alive(machine));
}

#[test]
fn a_paused_sandbox_is_removed_by_force_only() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    coffer.ok(["pause", &sandbox.id]);
    let (machine, supervisor) = (sandbox.machine(), sandbox.supervisor());
    coffer.refused(&["rm", &sandbox.id], &["is paused", "`-f`"]);
    let done = coffer.run(["rm", "-f", &sandbox.id]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.elapsed < BOUND, "{done:?}");
    coffer.refused(&["inspect", &sandbox.id], &["no sandbox"]);
    until("their end", || !is_alive(machine) && !is_alive(supervisor));
}

#[test]
fn a_paused_sandbox_whose_supervisor_is_killed_is_failed_and_leaves_nothing() {
    // Its directory of sockets is its own too.
    let coffer = Coffer::private();
    let sandbox = coffer.sleeper();
    sandbox.sh("echo kept > /kept; sync");
    coffer.ok(["pause", &sandbox.id]);
    let (machine, supervisor) = (sandbox.machine(), sandbox.supervisor());
    let sockets = copies::sockets_of(supervisor);
    assert!(sockets.is_dir(), "{}", sockets.display());
    kill(supervisor);
    until("their end", || !is_alive(machine) && !is_alive(supervisor));
    // The kernel frees a dying process's locks a moment after its memory.
    until("the notice", || sandbox.status() != "paused");
    assert_eq!(sandbox.status(), "failed");
    assert!(!sockets.exists(), "{}", sockets.display());
    assert_eq!(coffer.ok(["ps", "-q"]), "");
    coffer.refused(&["unpause", &sandbox.id], &["has failed", "hint: "]);
    coffer.ok(["start", &sandbox.id]);
    assert_eq!(sandbox.sh("cat /kept"), "kept");
}

#[test]
fn the_wall_clock_is_right_when_a_sandbox_goes_on() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script(copies::STAMP);
    copies::stamps_after(&sandbox, Duration::ZERO);
    coffer.ok(["pause", &sandbox.id]);
    let paused = Instant::now();
    // What both have was stamped before the pause, even where it was written after.
    let snapshot = copies::Snapshot::of(&coffer, &sandbox.id, &[]);
    while paused.elapsed() < A_WHILE {
        coffer.ok(["snapshot", "verify", &snapshot.id]);
    }
    let from = copies::now();
    coffer.ok(["unpause", &sandbox.id]);
    let ours = copies::stamps_after(&sandbox, from);
    let to = copies::now();
    let theirs = copies::stamps_after(&snapshot.fork(&[]), to);
    let first = copies::first_of_its_own(&ours, &theirs);
    copies::assert_right(first, from, to);
    copies::assert_right(*ours.last().unwrap(), from, to);
}

#[test]
fn a_paused_sandbox_is_not_attached_to() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    coffer.ok(["pause", &sandbox.id]);
    coffer.refused(&["attach", &sandbox.id], &["is paused", "coffer unpause"]);
}

#[test]
fn an_attached_client_sees_the_output_go_on_after_a_pause() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&[
        "-i",
        BUSYBOX,
        "sh",
        "-c",
        "while read x; do echo got $x; done",
    ]);
    let mut client = coffer
        .command(["attach", &sandbox.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = client.stdin.take().unwrap();
    let mut screen = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    keys.write_all(b"one\n").unwrap();
    screen.read_line(&mut line).unwrap();
    assert_eq!(line, "got one\n");
    coffer.ok(["pause", &sandbox.id]);
    // What is typed meanwhile is not lost.
    keys.write_all(b"two\n").unwrap();
    coffer.ok(["unpause", &sandbox.id]);
    line.clear();
    screen.read_line(&mut line).unwrap();
    assert_eq!(line, "got two\n");
    drop(keys);
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(client.wait().unwrap().code(), Some(0));
}

#[test]
fn a_command_that_runs_through_a_pause_loses_nothing() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let script = "i=0; while test $i -lt 20000; do i=$((i+1)); echo $i; done; echo end >&2; exit 5";
    let mut exec = coffer
        .command(["exec", &sandbox.id, "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    let mut stdout = exec.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    coffer.ok(["pause", &sandbox.id]);
    assert_eq!(exec.try_wait().unwrap(), None);
    coffer.ok(["unpause", &sandbox.id]);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let expected: String = (2..=20000).map(|n| format!("{n}\n")).collect();
    assert!(
        rest == expected,
        "{} bytes of {}",
        rest.len(),
        expected.len()
    );
    let output = exec.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(output.stderr, b"end\n");
}

/// Sends a signal by its name, as an operator does.
fn signal(name: &str, pid: i32) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn every_verb_says_that_a_machine_is_stopped_and_works_when_it_goes_on() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let machine = sandbox.machine();
    signal("-STOP", machine);
    let command = format!("kill -CONT {machine}");
    let done = coffer.run(["exec", &sandbox.id, "true"]);
    assert!(done.code != 0 && done.stderr.contains(&command), "{done:?}");
    for verb in [
        &["pause", sandbox.id.as_str()][..],
        &["fork", &sandbox.id],
        &["snapshot", "create", &sandbox.id],
        &["snapshot", "create", "--disk", &sandbox.id],
    ] {
        let done = coffer.refused(verb, &["is stopped", &command]);
        assert!(done.elapsed < BOUND, "{done:?}");
    }
    signal("-CONT", machine);
    assert_eq!(sandbox.exec(&["true"]).code, 0);
    coffer.refused(&["unpause", &sandbox.id], &["is not paused"]);
    coffer.ok(["pause", &sandbox.id]);
    coffer.ok(["unpause", &sandbox.id]);
    assert_eq!(sandbox.exec(&["true"]).code, 0);
    signal("-STOP", machine);
    let done = coffer.run(["stop", "-t", "1", &sandbox.id]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.elapsed < BOUND, "{done:?}");
    assert_eq!(sandbox.status(), "stopped");
    until("the machine's end", || !is_alive(machine));
}

/// Runs `work` while the machine is stopped from a moment after it began; whether it was held up.
fn held_up(coffer: &Coffer, machine: i32, verb: &[&str], moment: Duration) -> bool {
    let mut command = coffer.command(verb);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = quiet.spawn().unwrap();
    let began = Instant::now();
    until("the moment", || began.elapsed() >= moment);
    signal("-STOP", machine);
    // It ends at once if it was over, or if it had not begun.
    let began = Instant::now();
    until("an end or a wait", || {
        client.try_wait().unwrap().is_some() || began.elapsed() > NO_MOMENT
    });
    let held_up = client.try_wait().unwrap().is_none();
    let ended = client.wait().unwrap();
    assert!(!held_up || !ended.success(), "{verb:?}: {ended:?}");
    signal("-CONT", machine);
    held_up
}

/// Longer than a pause or a refusal takes.
const NO_MOMENT: Duration = Duration::from_secs(3);

#[test]
fn a_guest_that_freezes_too_late_goes_on_and_every_verb_works() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script(COUNT);
    until("output", || lines(&coffer, &sandbox.id) > 3);
    let machine = sandbox.machine();
    // The machine has to be stopped between the question and the answer. When that is, only trying
    // tells.
    let provoked = (0..60).map(Duration::from_millis).any(|moment| {
        let held_up = held_up(&coffer, machine, &["pause", &sandbox.id], moment);
        if !held_up && sandbox.status() == "paused" {
            coffer.ok(["unpause", &sandbox.id]);
        }
        held_up
    });
    assert!(provoked, "no pause was held up");
    // It freezes now, and nobody waits for that.
    let counted = lines(&coffer, &sandbox.id);
    until("the workload to go on", || {
        lines(&coffer, &sandbox.id) > counted + 3
    });
    assert_eq!(sandbox.status(), "running");
    assert_eq!(sandbox.exec(&["true"]).code, 0);
    coffer.ok(["pause", &sandbox.id]);
    coffer.ok(["unpause", &sandbox.id]);
    let fork = coffer.keep(coffer.ok(["fork", &sandbox.id]));
    assert_eq!(fork.exec(&["true"]).code, 0);
    coffer.refused(&["unpause", &sandbox.id], &["is not paused"]);
    let counted = lines(&coffer, &sandbox.id);
    until("more output", || lines(&coffer, &sandbox.id) > counted);
}
