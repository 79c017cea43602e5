//! Machines that stand still, go on, and go on as somebody else.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Channel, FailureKind, HostMessage, INITIAL_WINDOW_BYTES,
    ProcessSpec,
};
use cofferdam_types::ExitStatus;

use crate::guest::{Guest, Host, process, shell};

/// What `seq 1 30000` writes; more than a pipe and less than a window holds.
fn numbers() -> String {
    (1..=30_000).map(|number| format!("{number}\n")).collect()
}

/// Exchanges messages with a frozen machine, none of whose sessions may say anything.
fn assert_silent_for(host: &mut Host, session: u32, time: Duration) {
    let said = host.sessions[&session].stdout.len();
    let start = Instant::now();
    while start.elapsed() < time {
        host.freeze(false);
    }
    assert_eq!(host.sessions[&session].stdout.len(), said);
    assert!(!host.sessions[&session].is_over());
}

#[test]
fn processes_that_are_held_back_have_their_own_pace_again_after_a_freeze_or_a_thaw() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let limit = |host: &mut Host| {
        let session = host.exec(process(&["cat", "/sys/fs/cgroup/cpu.max"]));
        String::from_utf8(host.finish(session).stdout).unwrap()
    };
    let saved = limit(host);
    for percent in [20, 10] {
        host.ask(&HostMessage::HoldBack { percent }, "Dirty", |message| {
            matches!(message, AgentMessage::Dirty { .. })
        });
        assert_eq!(limit(host), format!("{percent}000 100000\n"));
    }
    host.thaw();
    assert_eq!(limit(host), saved);
    let hold_back = HostMessage::HoldBack { percent: 10 };
    host.send(CONTROL_STREAM, &hold_back);
    host.freeze(false);
    host.thaw();
    assert_eq!(limit(host), saved);
}

#[test]
fn a_frozen_process_makes_no_progress_and_goes_on() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    let workload = host.bring_up();
    let script = "trap 'echo caught; exit 3' TERM; \
        while read up idle < /proc/uptime; do echo $up; done";
    let clock = host.exec(shell(script));
    host.until(clock, |outcome| outcome.stdout.len() > 100);
    host.freeze(false);
    assert_silent_for(host, clock, Duration::from_millis(500));
    for refused in [
        HostMessage::Exec {
            process: process(&["true"]),
            wait_all: false,
        },
        HostMessage::Quiesce,
    ] {
        assert_eq!(host.ask_in_vain(&refused).kind, FailureKind::OutOfOrder);
    }
    host.thaw();
    let said = host.sessions[&clock].stdout.len();
    host.until(clock, |outcome| outcome.stdout.len() > said + 100);
    // A signal that comes meanwhile is not lost.
    host.freeze(false);
    host.send(clock, &HostMessage::Signal { signal: 15 });
    assert_silent_for(host, clock, Duration::from_millis(100));
    host.thaw_at(2_000_000_000_000_000_000);
    let outcome = host.finish(clock);
    let text = outcome.text();
    assert_eq!(outcome.status, Some(ExitStatus::Code(3)), "{text}");
    assert!(text.ends_with("caught\n"), "{text}");
    // The machine's own time went on without the process.
    let up: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let pause = up
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(0.0, f64::max);
    assert!(pause > 0.4, "longest pause {pause} s");
    assert!(host.run(shell("date +%s")).text().starts_with("20000000"));
    assert_eq!(host.run(shell("echo alive")).text(), "alive\n");
    host.thaw();
    host.send(workload, &HostMessage::Signal { signal: 15 });
    assert_eq!(host.finish(workload).status, Some(ExitStatus::Code(7)));
    assert_eq!(
        host.ask_in_vain(&HostMessage::Freeze { sync: false }).kind,
        FailureKind::OutOfOrder
    );
}

#[test]
fn output_is_complete_and_not_doubled_by_many_freezes() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let echo = ProcessSpec {
        stdin: true,
        ..process(&["cat"])
    };
    let writer = host.exec(shell("seq 1 30000; echo end >&2"));
    let reader = host.exec(echo);
    for round in 0..20_u32 {
        host.freeze(round % 5 == 0);
        // Taken in while frozen, and answered later.
        host.send_data(reader, format!("{round}\n").as_bytes(), round == 19);
        host.freeze(false);
        host.thaw();
    }
    let outcome = host.finish(writer);
    assert!(
        outcome.text() == numbers(),
        "{} bytes",
        outcome.stdout.len()
    );
    assert_eq!(outcome.stderr, b"end\n");
    let echoed = host.finish(reader);
    let expected: String = (0..20).map(|round| format!("{round}\n")).collect();
    assert_eq!(
        (echoed.text(), echoed.stdin_credit),
        (expected.clone(), u64::try_from(expected.len()).unwrap())
    );
}

#[test]
fn a_copy_goes_on_where_the_original_stood() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(cofferdam_proto::UpperDevice::Disk));
    // Stalled in the middle: a full window is with the host, the rest in the machine.
    let script = "seq 1 60000; read line; echo got $line; exit 9";
    let workload = host.start(ProcessSpec {
        stdin: true,
        ..shell(script)
    });
    host.stalled.push(workload);
    let window = INITIAL_WINDOW_BYTES as usize;
    host.until(workload, |outcome| outcome.stdout.len() == window);
    let echo = ProcessSpec {
        stdin: true,
        ..shell("cat; echo ended > /dev/shm/mark; exec sleep 1000")
    };
    let lost = host.exec(echo);
    host.send_data(lost, b"here\n", false);
    host.until(lost, |outcome| outcome.text() == "here\n");
    // Input that the process has not read yet is part of the machine.
    host.send_data(workload, b"half ", false);
    host.freeze(false);
    let capture = guest.capture();

    let mut copy = capture.restore();
    copy.host.take_over(workload, Host::other_identity(1));
    assert_eq!(
        copy.host
            .run(shell(
                "until [ -s /dev/shm/mark ]; do usleep 1000; done; cat /dev/shm/mark"
            ))
            .text(),
        "ended\n",
        "input of a lost session ends"
    );
    copy.host.send_data(workload, b"copy\n", false);
    // The number of the lost session is free.
    assert_eq!(workload + 1, lost);
    let over = copy.host.finish(workload);
    assert_eq!(over.status, Some(ExitStatus::Code(9)));

    guest.host.thaw();
    guest.host.send_data(workload, b"original\n", false);
    guest.host.stalled.clear();
    guest
        .host
        .credit(workload, Channel::Stdout, INITIAL_WINDOW_BYTES);
    let original = guest.host.finish(workload);
    let all: String = (1..=60_000).map(|number| format!("{number}\n")).collect();
    assert!(original.text() == format!("{all}got half original\n"));
    // The copy's host got exactly what the original's had not.
    assert!(over.text() == format!("{}got half copy\n", &all[window..]));
}

#[test]
fn an_exit_that_nobody_was_told_is_told_to_the_heir() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let workload = guest.host.bring_up();
    guest.host.freeze(false);
    guest
        .host
        .send(workload, &HostMessage::Signal { signal: 9 });
    assert_silent_for(&mut guest.host, workload, Duration::from_millis(100));
    let mut copy = guest.capture().restore();
    copy.host.take_over(workload, Host::other_identity(1));
    let told = copy.host.finish(workload);
    assert_eq!(told.status, Some(ExitStatus::Signal(9)));
}

#[test]
fn a_copy_is_somebody_else_before_its_processes_know() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(cofferdam_proto::UpperDevice::Disk));
    let script = "while :; do \
        echo t$(date +%s) n$(hostname) m$(cat /etc/machine-id) r$(od -An -tx8 -N8 /dev/urandom | tr -d ' '); \
        done > /dev/shm/log";
    let workload = host.start(shell(script));
    host.run(shell(
        "until [ $(wc -l < /dev/shm/log) -gt 5 ]; do usleep 1000; done",
    ));
    host.freeze(false);
    let capture = guest.capture();
    let logs = [1, 2].map(|seed| {
        let mut copy = capture.restore();
        copy.host.hello();
        let thaw = HostMessage::Thaw { unix_ns: 0 };
        for early in [thaw.clone(), HostMessage::Exec { process: process(&["true"]), wait_all: false }] {
            let refused = copy.host.ask_in_vain(&early);
            assert_eq!(refused.kind, FailureKind::OutOfOrder, "{early:?}");
        }
        copy.host.adopt(Host::other_identity(seed));
        let refused = copy.host.ask_in_vain(&thaw);
        assert_eq!(refused.kind, FailureKind::OutOfOrder);
        copy.host.take_over(workload, Host::other_identity(seed));
        copy.host.run(shell(
            "n=$(wc -l < /dev/shm/log); until [ $(wc -l < /dev/shm/log) -gt $((n + 5)) ]; do usleep 1000; done",
        ));
        let log = copy.host.run(shell("cat /dev/shm/log")).text();
        draws_of_a_copy(&log, seed)
    });
    guest.host.thaw();
    let own = guest.host.run(shell("cat /dev/shm/log")).text();
    let own: BTreeSet<String> = words(&own, 'r');
    let [first, second] = &logs;
    assert!(first.is_disjoint(second) && first.is_disjoint(&own) && second.is_disjoint(&own));
}

/// Checks that from one moment on everything that the log shows is the copy's, and returns the
/// random numbers drawn after it.
fn draws_of_a_copy(log: &str, seed: u8) -> BTreeSet<String> {
    let identity = Host::other_identity(seed);
    let mut ours = false;
    let mut draws = BTreeSet::new();
    let (whole, _) = log.rsplit_once('\n').unwrap();
    for line in whole.lines() {
        let was_ours = ours;
        for word in line.split(' ') {
            let (kind, rest) = word.split_at(1);
            let is_new = match kind {
                "t" => Some(rest.starts_with("20000000")),
                "n" => Some(rest == identity.hostname),
                "m" => Some(rest == identity.machine_id),
                _ => None,
            };
            if let Some(is_new) = is_new {
                assert!(is_new || !ours, "`{word}` of the original in `{line}`");
                ours = is_new;
            }
        }
        if was_ours {
            draws.extend(words(line, 'r'));
        }
    }
    assert!(draws.len() >= 4, "{log}");
    draws
}

fn words(text: &str, kind: char) -> BTreeSet<String> {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix(kind))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_synced_machines_disk_is_clean_by_itself() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    host.exec(shell("while :; do echo more; done > /busy"));
    host.run(shell(
        "echo kept > /kept; until [ -s /busy ]; do usleep 1000; done",
    ));
    host.freeze(true);
    host.freeze(true);
    let capture = guest.capture();
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(capture.upper())
        .output()
        .unwrap();
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    let kept = Command::new("debugfs")
        .args(["-R", "cat /upper/kept"])
        .arg(capture.upper())
        .output()
        .unwrap();
    assert_eq!(kept.stdout, b"kept\n");
    // And it can be written to again.
    guest.host.thaw();
    let written = guest
        .host
        .run(shell("echo on > /kept && sync && cat /kept"));
    assert_eq!(written.text(), "on\n");
    // A frozen machine can be ended, though a process has yet to give up a deleted file.
    guest.host.run(shell(
        "(exec 3> /deleted; rm /deleted; echo much >&3; sleep 1000) > /dev/null 2>&1 & \
         until [ ! -e /deleted ]; do usleep 1000; done",
    ));
    guest.host.freeze(true);
    guest.host.send(
        cofferdam_proto::CONTROL_STREAM,
        &HostMessage::Shutdown { trim: Vec::new() },
    );
    guest.wait();
}

#[test]
fn a_hook_runs_while_the_workload_stands_and_leaves_nothing_behind() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.bring_up();
    let clock = host.exec(shell(
        "while read up idle < /proc/uptime; do echo $up; done",
    ));
    host.until(clock, |outcome| outcome.stdout.len() > 100);
    let hook = |script: &str, timeout_ms| HostMessage::Hook {
        process: shell(script),
        timeout_ms,
    };
    // Nothing to do with a machine that runs.
    let early = host.ask_in_vain(&hook("true", 1000));
    assert_eq!(early.kind, FailureKind::OutOfOrder);
    host.freeze(false);
    let said = host.sessions[&clock].stdout.len();
    let script = "(sleep 1000 & echo $! > /tmp/left); echo out; echo err >&2; exit 3";
    assert_eq!(
        host.hook(&hook(script, 20_000)),
        (Some(3), "out\nerr\n".to_owned())
    );
    // One that waits for what is frozen ends with its time.
    let (status, _) = host.hook(&hook("while :; do echo more; done", 300));
    assert_eq!(status, None);
    // One that takes all memory is killed, and leaves the guest enough to answer.
    let (status, _) = host.hook(&hook("tail /dev/zero", 120_000));
    assert_eq!(status, Some(137));
    let missing = host.ask_in_vain(&HostMessage::Hook {
        process: process(&["no-such-program"]),
        timeout_ms: 1000,
    });
    assert_eq!(missing.kind, FailureKind::ProgramNotFound);
    assert_eq!(host.sessions[&clock].stdout.len(), said);
    host.thaw();
    host.until(clock, |outcome| outcome.stdout.len() > said);
    let left = host.run(shell("kill -0 $(cat /tmp/left) 2>&1 || echo gone"));
    assert!(left.text().ends_with("gone\n"), "{}", left.text());
}
