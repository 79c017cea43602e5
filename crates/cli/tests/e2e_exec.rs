//! `coffer exec` and `coffer attach`: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{BufRead, BufReader, Read, Write},
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
fn children_that_outlive_a_command_lose_nothing_and_hold_it_up_for_a_while_only() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let done = sandbox.exec(&["sh", "-c", "sleep 100000 & echo started"]);
    assert_eq!((done.code, done.text().as_str()), (0, "started"));
    assert!(sandbox.exec(&["ps"]).text().contains("sleep 100000"));
    // What `exec > >(tee log) 2>&1` of bash makes.
    let tee = "mkfifo /p; tee /log < /p & exec > /p 2>&1; rm /p; seq 1 20000; exit 3";
    for _ in 0..3 {
        let done = sandbox.exec(&["sh", "-c", tee]);
        assert_eq!((done.code, done.text().lines().count()), (3, 20_000));
    }
    let late = sandbox.exec(&["sh", "-c", "(sleep 0.5; echo late) & echo now"]);
    assert_eq!(late.text(), "now\nlate");
    // The sleeper lives past the bounded wait.
    let script = "(sleep 4; echo late) & echo now; exit 5";
    let all = coffer.run(["exec", "--wait-all", &sandbox.id, "sh", "-c", script]);
    assert_eq!((all.code, all.text().as_str()), (5, "now\nlate"));
}

#[test]
fn a_command_ends_with_its_client_or_at_its_time_limit_when_asked_to() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let script = "sleep 200001 & sleep 200002; true";
    let start = |flags: &[&str]| {
        let words = ["exec"].iter().chain(flags).copied();
        let words = words.chain([sandbox.id.as_str(), "sh", "-c", script]);
        coffer.command(words).spawn().unwrap()
    };
    let count = |wanted: &str| {
        let script =
            format!("until [ $(ps | grep -c '[s]leep 20000') = {wanted} ]; do sleep 0.05; done");
        assert_eq!(sandbox.exec(&["sh", "-c", &script]).code, 0);
    };
    let mut tied = start(&["--kill-with-client"]);
    // The shell and its two sleepers.
    count("3");
    tied.kill().unwrap();
    tied.wait().unwrap();
    count("0");
    // By default it goes on.
    let mut left = start(&[]);
    // The shell and its two sleepers.
    count("3");
    left.kill().unwrap();
    left.wait().unwrap();
    assert_eq!(sandbox.sh("sleep 0.2; ps | grep -c '[s]leep 20000'"), "3");
    sandbox.sh("killall sleep");
    count("0");

    let limited =
        |script: &str| coffer.run(["exec", "--timeout", "1s", &sandbox.id, "sh", "-c", script]);
    let late = limited(&format!("echo begun; {script}"));
    assert_eq!(
        (late.code, late.text().as_str()),
        (124, "begun"),
        "{late:?}"
    );
    assert!(late.stderr.contains("1s"), "{late:?}");
    count("0");
    // One that does not listen is killed.
    assert_eq!(
        limited("trap '' TERM; sleep 200001; sleep 200002").code,
        124
    );
    count("0");
    assert_eq!(limited("exit 6").code, 6);
    let never = coffer.run(["exec", "--timeout", "never", &sandbox.id, "true"]);
    assert_eq!(never.code, 125, "{never:?}");
}

#[test]
fn input_of_a_detached_sandbox_stays_open_for_the_next_who_attaches() {
    let coffer = Coffer::shared();
    let script = "while read line; do echo got $line; done; echo ended";
    let sandbox = coffer.detached(&["-i", BUSYBOX, "sh", "-c", script]);
    for word in ["one", "two"] {
        let input = format!("{word}\n");
        let done = coffer.run_with_input(["attach", &sandbox.id], input.as_bytes());
        let expected = format!("got {word}");
        assert_eq!((done.code, done.text()), (0, expected), "{done:?}");
    }
    assert_eq!(sandbox.status(), "running");
    // Two at once write to one workload.
    let attach = || {
        let mut child = coffer
            .command(["attach", &sandbox.id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (child, input, output)
    };
    let (mut first, mut first_input, mut first_output) = attach();
    let (mut second, mut second_input, mut second_output) = attach();
    for (word, input) in [("three", &mut first_input), ("four", &mut second_input)] {
        input.write_all(format!("{word}\n").as_bytes()).unwrap();
        // Each has been attached for the other's answer only from its own on.
        let output = if word == "three" {
            &mut first_output
        } else {
            &mut second_output
        };
        loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "{word}");
            if line == format!("got {word}\n") {
                break;
            }
        }
    }
    drop((first_input, second_input));
    assert_eq!(first.wait().unwrap().code(), Some(0));
    assert_eq!(second.wait().unwrap().code(), Some(0));
    let logs = coffer.ok(["logs", &sandbox.id]);
    assert_eq!(logs, "got one\ngot two\ngot three\ngot four");
}

#[test]
fn an_attached_client_that_reads_nothing_for_long_holds_up_nobody_and_misses_nothing() {
    let coffer = Coffer::shared();
    let script = "until test -e /go; do echo waiting; sleep 0.05; done; seq 1 300000; touch /done; \
                  until test -e /end; do sleep 0.05; done; echo end; exit 7";
    let sandbox = coffer.script(script);
    let mut slow = coffer
        .command(["attach", "--no-stdin", &sandbox.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = slow.stdout.take().unwrap();
    // It is attached when it prints something.
    output.read_exact(&mut [0]).unwrap();
    sandbox.send(&["touch", "/go"]);
    sandbox.sh("until test -e /done; do sleep 0.05; done");
    sandbox.send(&["touch", "/end"]);
    assert_eq!(coffer.ok(["wait", &sandbox.id]), "7");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let counted: Vec<&str> = rest
        .lines()
        .filter(|line| !line.ends_with("aiting"))
        .collect();
    assert_eq!((counted.len(), counted.last()), (300_001, Some(&"end")));
    assert_eq!(slow.wait().unwrap().code(), Some(7));
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
