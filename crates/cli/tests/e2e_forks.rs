//! `coffer fork`: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    time::{Duration, Instant},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    copies::{STAMP, Snapshot, assert_right, common, first_of_its_own, journal, now, stamps_after},
    sandboxes::until,
};

/// Counts in memory and, with each step, in a file.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >> /count; /bin/true; done";

/// Writes down what the kernel draws at random.
const DRAW: &str = "while :; do head -c 16 /dev/urandom | md5sum; done > /draws";

fn count(sandbox: &Sleeper<'_>) -> Vec<u64> {
    let lines = journal(sandbox, "/count");
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_fork_goes_on_from_the_moment_in_memory_and_on_disk() {
    let coffer = Coffer::shared();
    let parent = coffer.script(COUNT);
    until("a count", || count(&parent).len() > 3);
    let before = count(&parent).len();
    let fork = parent.fork(&[]);
    assert_ne!(fork.id, parent.id);
    assert_eq!(fork.status(), "running");
    let begun = count(&fork).len();
    assert!(begun >= before, "{begun} is before {before}");
    until("the fork's count", || count(&fork).len() > begun);
    until("the parent's count", || count(&parent).len() > begun);
    // Each counts on without a step left out or done twice.
    for sandbox in [&fork, &parent] {
        let counted = count(sandbox);
        let all: Vec<u64> = (1..).take(counted.len()).collect();
        assert_eq!(counted, all);
    }
}

#[test]
fn a_fork_has_names_of_its_own() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    let (one, other) = (parent.fork(&[]), parent.fork(&[]));
    let mut seen = BTreeSet::new();
    for sandbox in [&parent, &one, &other] {
        let short = &sandbox.id[..12];
        assert_eq!(sandbox.sh("hostname"), short);
        assert_eq!(sandbox.sh("cat /proc/sys/kernel/hostname"), short);
        assert_eq!(sandbox.sh("cat /etc/hostname"), short);
        assert_eq!(sandbox.sh("echo $HOSTNAME"), short);
        let hosts = sandbox.sh("cat /etc/hosts");
        assert!(hosts.contains(short), "{hosts}");
        let id = sandbox.sh("cat /etc/machine-id");
        assert_eq!(id.len(), 32, "{id}");
        seen.insert(id);
        seen.insert(sandbox.inspect()["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
    let hosts = one.sh("cat /etc/hosts");
    assert!(!hosts.contains(&parent.id[..12]), "{hosts}");
    assert_eq!(one.inspect()["forked_from"]["sandbox"], parent.id);
}

#[test]
fn no_two_forks_of_a_moment_draw_the_same_random_numbers() {
    let coffer = Coffer::shared();
    let parent = coffer.script(DRAW);
    until("draws", || journal(&parent, "/draws").len() > 3);
    let snapshot = Snapshot::of(&coffer, &parent.id, &[]);
    let mut all: Vec<_> = (0..3).map(|_| snapshot.fork(&[])).collect();
    all.push(parent);
    let draws = || all.iter().map(|sandbox| journal(sandbox, "/draws"));
    // All have the draws before the moment in common, also one that was not yet written down.
    let mut old = 0;
    until("draws of all", || {
        let shared = draws().reduce(|ours, theirs| ours[..common(&ours, &theirs)].to_vec());
        old = shared.map_or(0, |shared| shared.len());
        draws().all(|drawn| drawn.len() > old + 1)
    });
    assert!(old > 3);
    let new: Vec<_> = draws().flat_map(|drawn| drawn[old..].to_vec()).collect();
    let distinct: BTreeSet<_> = new.iter().collect();
    assert_eq!(distinct.len(), new.len());
    // What a process asks for later differs as well.
    let ask = |sandbox: &Sleeper<'_>| sandbox.sh("head -c 16 /dev/urandom | md5sum");
    let asked: BTreeSet<_> = all.iter().map(ask).collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
}

#[test]
fn the_wall_clock_is_right_before_a_forks_first_instruction() {
    let coffer = Coffer::shared();
    let parent = coffer.script(STAMP);
    stamps_after(&parent, Duration::ZERO);
    let snapshot = Snapshot::of(&coffer, &parent.id, &[]);
    let taken = Instant::now();
    // A clock that has stood still since the moment is wrong by more than may be.
    while taken.elapsed() < Duration::from_millis(300) {
        coffer.ok(["snapshot", "verify", &snapshot.id]);
    }
    let from = now();
    let fork = snapshot.fork(&[]);
    let ours = stamps_after(&fork, from);
    let to = now();
    let first = first_of_its_own(&ours, &stamps_after(&parent, from));
    assert_right(first, from, to);
    assert_right(*ours.last().unwrap(), from, to);
}

#[test]
fn the_parents_attached_client_goes_on_through_a_fork() {
    let coffer = Coffer::shared();
    let parent = coffer.detached(&[
        "-i",
        BUSYBOX,
        "sh",
        "-c",
        "while read x; do test $x = end && exit 4; echo got $x; done",
    ]);
    let mut client = coffer
        .command(["attach", &parent.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = client.stdin.take().unwrap();
    let mut screen = BufReader::new(client.stdout.take().unwrap());
    let mut answer = |text: &str| {
        keys.write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        screen.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(answer("one\n"), "got one\n");
    let fork = parent.fork(&[]);
    assert_eq!(answer("two\n"), "got two\n");
    // The client is the parent's alone.
    assert_eq!(coffer.ok(["logs", &fork.id]), "");
    keys.write_all(b"end\n").unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(4));
    assert_eq!(fork.status(), "running");
}

#[test]
fn the_parents_commands_are_answered_by_the_parent_alone() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    let script = "i=0; while test $i -lt 20000; do i=$((i+1)); echo $i; done; \
                  while ! test -e /go; do /bin/true; done; hostname; exit 5";
    let mut exec = coffer
        .command(["exec", &parent.id, "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = exec.stdout.take().unwrap();
    let mut first = [0; 2];
    stdout.read_exact(&mut first).unwrap();
    let fork = parent.fork(&[]);
    // The copy's command ends first, and nobody hears of it.
    fork.sh("touch /go");
    until("its end", || !fork.sh("ps").contains("/go; do"));
    assert_eq!(exec.try_wait().unwrap(), None);
    parent.sh("touch /go");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let mut expected: String = (2..=20000).map(|n| format!("{n}\n")).collect();
    expected.push_str(&format!("{}\n", &parent.id[..12]));
    assert!(
        rest == expected,
        "{} bytes of {}",
        rest.len(),
        expected.len()
    );
    assert_eq!(exec.wait().unwrap().code(), Some(5));
    assert_eq!(fork.status(), "running");
    assert_eq!(coffer.ok(["logs", &fork.id]), "");
}

#[test]
fn a_fork_has_the_files_of_before_and_none_of_after() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    parent.sh("mkdir /d; seq 50000 > /d/synced; sync; echo unsynced > /d/cached; rm /etc/group");
    let sum = parent.sh("md5sum /d/synced");
    let fork = parent.fork(&[]);
    parent.sh("echo later > /d/later; echo changed > /d/synced; sync");
    fork.sh("echo mine > /d/mine; sync");
    assert_eq!(fork.sh("ls /d"), "cached\nmine\nsynced");
    assert_eq!(fork.sh("md5sum /d/synced"), sum);
    assert_eq!(fork.sh("cat /d/cached"), "unsynced");
    assert_ne!(fork.exec(&["test", "-e", "/etc/group"]).code, 0);
    assert_eq!(parent.sh("ls /d"), "cached\nlater\nsynced");
    // Nor does the disk know them, once the memory is gone.
    for sandbox in [&fork, &parent] {
        coffer.ok(["restart", "-t", "0", &sandbox.id]);
    }
    assert_eq!(fork.sh("ls /d"), "cached\nmine\nsynced");
    assert_eq!(fork.sh("md5sum /d/synced"), sum);
    assert_eq!(parent.sh("ls /d"), "cached\nlater\nsynced");
    assert_eq!(parent.sh("cat /d/synced"), "changed");
}

#[test]
fn forks_are_forked() {
    let coffer = Coffer::shared();
    let mut line = vec![coffer.sleeper()];
    for generation in 1..=3 {
        let parent = line.last().unwrap();
        parent.sh(&format!(
            "echo {generation} >> /line; (sleep {generation}00000 > /dev/null 2>&1 &)"
        ));
        let fork = parent.fork(&[]);
        assert_eq!(fork.inspect()["forked_from"]["sandbox"], parent.id);
        line.push(fork);
    }
    assert_eq!(line[3].sh("cat /line"), "1\n2\n3");
    let ps = line[3].sh("ps");
    for generation in 1..=3 {
        assert!(ps.contains(&format!("sleep {generation}00000")), "{ps}");
    }
    assert_eq!(line[1].sh("cat /line"), "1\n2");
    // What a fork came from may go.
    for parent in line.drain(..3) {
        coffer.ok(["rm", "-f", &parent.id]);
    }
    assert_eq!(line[0].sh("cat /line"), "1\n2\n3");
    let orphans = line[0].fork(&[]);
    assert_eq!(orphans.sh("cat /line"), "1\n2\n3");
}

#[test]
fn a_stopped_sandbox_gives_its_disk_to_forks_that_start_like_any_other() {
    let coffer = Coffer::shared();
    let parent = coffer.script("cat /kept; echo run >> /kept; hostname");
    coffer.ok(["wait", &parent.id]);
    assert_eq!(parent.status(), "stopped");
    let fork = parent.fork(&[]);
    assert_eq!(fork.status(), "created");
    assert_eq!(
        coffer.ok(["start", "-a", &fork.id]),
        format!("run\n{}", &fork.id[..12])
    );
    // The parent has not seen that run.
    assert_eq!(
        coffer.ok(["start", "-a", &parent.id]),
        format!("run\n{}", &parent.id[..12])
    );
    assert_eq!(
        coffer.ok(["start", "-a", &fork.id]),
        format!("run\nrun\n{}", &fork.id[..12])
    );
}

#[test]
fn a_fork_of_a_paused_sandbox_runs_and_the_paused_one_stays() {
    let coffer = Coffer::shared();
    let parent = coffer.script(COUNT);
    until("a count", || count(&parent).len() > 3);
    coffer.ok(["pause", &parent.id]);
    let forks = [parent.fork(&[]), parent.fork(&[])];
    assert_eq!(parent.status(), "paused");
    let begun = count(&forks[0]).len();
    until("the fork's count", || count(&forks[0]).len() > begun);
    assert_eq!(parent.status(), "paused");
    assert_eq!(forks[1].sh("hostname"), &forks[1].id[..12]);
    coffer.ok(["unpause", &parent.id]);
    let begun = count(&parent).len();
    until("the parent's count", || count(&parent).len() > begun);
}

#[test]
fn a_fork_goes_its_own_way_to_its_end() {
    let coffer = Coffer::shared();
    let parent =
        coffer.script("while ! test -e /end; do /bin/true; done; echo over; exit $(cat /end)");
    let fork = parent.fork(&[]);
    fork.send(&["sh", "-c", "echo 7 > /end.part; mv /end.part /end"]);
    assert_eq!(coffer.ok(["wait", &fork.id]), "7");
    assert_eq!(coffer.ok(["logs", &fork.id]), "over");
    assert_eq!(fork.status(), "stopped");
    assert_eq!(parent.status(), "running");
    assert_eq!(coffer.ok(["logs", &parent.id]), "");
    // Started again it begins from its disk, like any other.
    assert_eq!(coffer.run(["start", "-a", &fork.id]).code, 7);
}

#[test]
fn a_fork_of_a_sandbox_that_goes_at_its_end_goes_at_its_own() {
    let coffer = Coffer::shared();
    let parent = coffer.detached(&["--rm", BUSYBOX, "sleep", "1000000"]);
    let fork = parent.fork(&[]);
    coffer.ok(["kill", &fork.id]);
    until("its end", || coffer.run(["inspect", &fork.id]).code == 1);
    assert_eq!(parent.status(), "running");
}

#[test]
fn a_read_only_sandbox_is_forked_too() {
    let coffer = Coffer::shared();
    let parent = coffer.detached(&["--read-only", BUSYBOX, "sleep", "1000000"]);
    parent.sh("echo here > /dev/shm/file");
    let fork = parent.fork(&[]);
    assert_eq!(fork.sh("cat /dev/shm/file"), "here");
    assert_eq!(fork.sh("hostname"), &fork.id[..12]);
    assert_ne!(fork.exec(&["touch", "/file"]).code, 0);
}
