//! What `coffer fork` is asked, prints and refuses: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{collections::BTreeSet, process::Stdio};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::{unique_name, until},
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn many_forks_print_an_id_a_line_and_have_numbered_names() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    parent.sh("echo kept > /kept");
    let name = unique_name("many");
    let printed = coffer.ok(["fork", "-n", &name, "--count", "5", &parent.id]);
    let forks: Vec<_> = printed
        .lines()
        .map(|id| coffer.keep(id.to_owned()))
        .collect();
    let ids: BTreeSet<_> = forks.iter().map(|fork| fork.id.clone()).collect();
    assert_eq!((forks.len(), ids.len()), (5, 5), "{printed}");
    assert!(ids.iter().all(|id| id.len() == 64), "{printed}");
    let mut draws = BTreeSet::new();
    for (fork, number) in forks.iter().zip(1..) {
        assert_eq!(fork.inspect()["name"], format!("{name}-{number}"));
        assert_eq!(fork.sh("cat /kept"), "kept");
        draws.insert(fork.sh("head -c 16 /dev/urandom | md5sum"));
        draws.insert(fork.sh("cat /etc/machine-id"));
    }
    assert_eq!(draws.len(), 10);
}

#[test]
fn one_fork_has_the_very_name_and_tells_all_as_json() {
    let coffer = Coffer::shared();
    let parent = coffer.detached(&["--label", "tier=front", BUSYBOX, "sleep", "1000000"]);
    let name = unique_name("one");
    let made = coffer.json(["fork", "--json", "--name", &name, &parent.id]);
    assert_eq!(made.as_array().unwrap().len(), 1);
    let fork = coffer.keep(made[0]["id"].as_str().unwrap().to_owned());
    assert_eq!(made[0]["name"], name);
    assert_eq!(made[0]["status"], "running");
    assert_eq!(made[0]["forked_from"]["sandbox"], parent.id);
    assert_eq!(made[0]["labels"]["tier"], "front");
    assert_eq!(coffer.inspect(&name)["id"], fork.id);
}

#[test]
fn a_name_that_is_taken_is_refused_before_anything_is_made() {
    let coffer = Coffer::private();
    let parent = coffer.sleeper();
    let named = |name: &str| coffer.keep(coffer.ok(["create", "--name", name, BUSYBOX, "true"]));
    let _taken = (named("one"), named("many-3"));
    coffer.refused(
        &["fork", "-n", "one", &parent.id],
        &["`one` is taken", "coffer rm one"],
    );
    let many = ["fork", "-n", "many", "--count", "4", &parent.id];
    coffer.refused(&many, &["`many-3` is taken"]);
    assert_eq!(coffer.ok(["ps", "-aq"]).lines().count(), 3);
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
}

#[test]
fn what_cannot_be_forked_is_refused_with_the_reason() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    coffer.refused(&["fork", "--count", "0", &parent.id], &["`0`"]);
    coffer.refused(&["fork", "--count", "4000000", &parent.id], &["`4000000`"]);
    coffer.refused(&["fork", "-n", "a/b", &parent.id], &["`a/b`"]);
    coffer.refused(
        &["fork", "no-such-thing"],
        &["no sandbox and no snapshot `no-such-thing`", "hint: "],
    );
    let usage = coffer.run(["fork"]);
    assert_eq!(usage.code, 1, "{usage:?}");
    let usage = coffer.run(["fork", "--count", "many", &parent.id]);
    assert_eq!(usage.code, 125, "{usage:?}");
    assert_eq!(parent.status(), "running");
}

#[test]
fn a_sandbox_that_never_ran_or_failed_cannot_be_forked() {
    let coffer = Coffer::shared();
    let created = coffer.keep(coffer.ok(["create", BUSYBOX, "true"]));
    coffer.refused(
        &["fork", &created.id],
        &["is created", "nothing of it", "coffer start"],
    );
    let failed = coffer.keep(coffer.ok(["create", BUSYBOX, "no-such-program"]));
    assert_ne!(coffer.run(["start", &failed.id]).code, 0);
    assert_eq!(failed.status(), "failed");
    coffer.refused(&["fork", &failed.id], &["is failed", "hint: "]);
}

#[test]
fn a_fork_leaves_nothing_beside_the_sandbox() {
    let coffer = Coffer::private();
    let parent = coffer.sleeper();
    let fork = parent.fork(&[]);
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
    assert_eq!(coffer.entries("sandboxes").len(), 2);
    coffer.ok(["rm", "-f", &fork.id]);
    assert_eq!(coffer.entries("sandboxes").len(), 1);
}

#[test]
fn a_fork_or_capture_of_a_sandbox_that_is_starting_waits_for_the_start() {
    let coffer = Coffer::shared();
    // A start is over in a moment, so it is held in the middle by holding its supervisor.
    let (sandbox, mut starter, held) = loop {
        let sandbox = coffer.keep(coffer.ok(["create", BUSYBOX, "sleep", "1000000"]));
        let mut starter = coffer.command(["start", &sandbox.id]).spawn().unwrap();
        until("a start", || sandbox.status() != "created");
        let supervisor = sandbox.inspect()["supervisor_pid"].as_i64();
        let held = supervisor.map(|pid| Held::new(i32::try_from(pid).unwrap()));
        if held.is_some() && sandbox.status() == "starting" {
            break (sandbox, starter, held);
        }
        drop(held);
        assert_eq!(starter.wait().unwrap().code(), Some(0));
    };
    for verb in [
        &["fork"][..],
        &["snapshot", "create"],
        &["snapshot", "create", "--disk"],
    ] {
        // It waits, and then sees that the supervisor is held.
        coffer.refused(
            &[verb, &[&sandbox.id]].concat(),
            &["supervisor of sandbox", "is stopped"],
        );
    }
    let fork = coffer
        .command(["fork", &sandbox.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // So does the start itself, which goes on without its client.
    assert_eq!(starter.wait().unwrap().code(), Some(1));
    drop(held);
    let fork = fork.wait_with_output().unwrap();
    assert_eq!(fork.status.code(), Some(0));
    let id = String::from_utf8(fork.stdout).unwrap();
    assert_eq!(coffer.keep(id.trim().to_owned()).status(), "running");
}

/// A process that stands still as long as this lives.
struct Held(Pid);

impl Held {
    fn new(pid: i32) -> Self {
        let process = Pid::from_raw(pid).unwrap();
        kill_process(process, Signal::STOP).unwrap();
        Self(process)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have been ended meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}
