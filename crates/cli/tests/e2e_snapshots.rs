//! `coffer snapshot`, without its exports: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::fs;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    copies::{Snapshot, damage, journal},
    sandboxes::{unique_name, until},
};

/// A sandbox that has run to its end and has a file.
fn stopped(coffer: &Coffer) -> Sleeper<'_> {
    let sandbox = coffer.script("echo kept > /kept");
    coffer.ok(["wait", &sandbox.id]);
    sandbox
}

#[test]
fn a_snapshot_of_a_running_sandbox_has_its_memory_and_disturbs_nothing() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("i=0; while :; do i=$((i+1)); echo $i; /bin/true; done");
    let lines = || coffer.ok(["logs", &sandbox.id]).lines().count();
    until("output", || lines() > 3);
    let snapshots: Vec<_> = (0..3)
        .map(|_| Snapshot::of(&coffer, &sandbox.id, &[]))
        .collect();
    for snapshot in &snapshots {
        let info = snapshot.inspect();
        assert_eq!(info["kind"], "full");
        assert!(info["pause_us"].as_u64().unwrap() > 0, "{info}");
        for file in ["memory", "state", "upper.ext4", "manifest.json"] {
            assert!(snapshot.file(file).is_file(), "{file}");
        }
    }
    assert_eq!(sandbox.status(), "running");
    let before = lines();
    until("more output", || lines() > before);
    let counted = coffer.ok(["logs", &sandbox.id]);
    let numbers: Vec<usize> = counted.lines().map(|line| line.parse().unwrap()).collect();
    let all: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, all);
}

#[test]
fn a_snapshot_of_a_disk_alone_has_all_that_was_written_before_it() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    // Not synced by the guest.
    sandbox.sh("seq 30000 > /numbers; echo small > /small");
    let sum = sandbox.sh("md5sum /numbers");
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    sandbox.sh("echo later > /later; rm /small");
    assert_eq!(snapshot.inspect()["kind"], "disk");
    assert!(!snapshot.file("memory").exists() && !snapshot.file("state").exists());
    let fork = snapshot.fork(&[]);
    assert_eq!(fork.status(), "created");
    coffer.ok(["start", &fork.id]);
    assert_eq!(fork.sh("md5sum /numbers"), sum);
    assert_eq!(fork.sh("cat /small"), "small");
    assert_ne!(fork.exec(&["test", "-e", "/later"]).code, 0);
    // The disk that stood still for the moment takes writes again.
    assert_eq!(
        sandbox.sh("echo more >> /later; sync; cat /later"),
        "later\nmore"
    );
}

#[test]
fn a_stopped_sandbox_has_only_its_disk_to_give() {
    let coffer = Coffer::shared();
    let sandbox = stopped(&coffer);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let info = snapshot.inspect();
    assert_eq!(
        (&info["kind"], &info["pause_us"]),
        (&"disk".into(), &serde_json::Value::Null)
    );
    coffer.refused(
        &["snapshot", "create", "--full", &sandbox.id],
        &["is stopped", "`--disk`"],
    );
    let disk = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    assert_eq!(disk.inspect()["kind"], "disk");
    coffer.ok(["rm", &sandbox.id]);
    let fork = snapshot.fork(&[]);
    assert_eq!(coffer.run(["start", "-a", &fork.id]).code, 0);
}

#[test]
fn a_paused_sandbox_has_its_memory_to_give_and_stays_paused() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    sandbox.sh("echo cached > /dev/shm/cached");
    coffer.ok(["pause", &sandbox.id]);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &["--full"]);
    assert_eq!(snapshot.inspect()["kind"], "full");
    assert_eq!(sandbox.status(), "paused");
    // What it has in memory may not be on its disk.
    let create = ["snapshot", "create", "--disk", &sandbox.id];
    coffer.refused(&create, &["is paused", "hint: "]);
    assert_eq!(snapshot.fork(&[]).sh("cat /dev/shm/cached"), "cached");
}

#[test]
fn a_sandbox_that_never_ran_or_failed_has_nothing_to_give() {
    let coffer = Coffer::private();
    let created = coffer.keep(coffer.ok(["create", BUSYBOX, "true"]));
    coffer.refused(&["snapshot", "create", &created.id], &["is created"]);
    coffer.refused(
        &["snapshot", "create", "--disk", &created.id],
        &["is created"],
    );
    let failed = coffer.keep(coffer.ok(["create", BUSYBOX, "no-such-program"]));
    assert_ne!(coffer.run(["start", &failed.id]).code, 0);
    coffer.refused(
        &["snapshot", "create", &failed.id],
        &["is failed", "hint: "],
    );
    coffer.refused(&["snapshot", "create", "no-such-sandbox"], &["no sandbox"]);
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
}

#[test]
fn damaged_device_state_is_never_run() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let path = snapshot.file("state");
    let length = fs::metadata(&path).unwrap().len();
    for at in [0, 200, length / 2, length - 1] {
        damage(&path, at);
        let name = unique_name("never");
        coffer.refused(&["fork", "-n", &name, &snapshot.id], &["changed"]);
        // Nor where nothing shows from outside that it was.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        coffer.refused(&["fork", "-n", &name, &snapshot.id], &["damaged"]);
        until("its end", || coffer.run(["inspect", &name]).code == 1);
        damage(&path, at);
    }
    assert_eq!(snapshot.fork(&[]).status(), "running");
}

#[test]
fn forks_outlive_their_snapshot_and_can_be_forked_and_captured() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    parent.sh("seq 1000 > /dev/shm/kept");
    let snapshot = Snapshot::of(&coffer, &parent.id, &[]);
    let fork = snapshot.fork(&[]);
    assert_eq!(fork.inspect()["forked_from"]["snapshot"], snapshot.id);
    coffer.ok(["rm", "-f", &parent.id]);
    assert_eq!(coffer.ok(["snapshot", "rm", &snapshot.id]), snapshot.id);
    coffer.refused(&["fork", &snapshot.id], &["no sandbox and no snapshot"]);
    assert_eq!(fork.status(), "running");
    let sum = fork.sh("md5sum /dev/shm/kept");
    let second = Snapshot::of(&coffer, &fork.id, &[]);
    coffer.ok(["snapshot", "verify", &second.id]);
    let grandchildren = [fork.fork(&[]), second.fork(&[])];
    coffer.ok(["rm", "-f", &fork.id]);
    coffer.ok(["snapshot", "rm", &second.id]);
    for grandchild in &grandchildren {
        assert_eq!(grandchild.sh("md5sum /dev/shm/kept"), sum);
        coffer.ok(["pause", &grandchild.id]);
        coffer.ok(["unpause", &grandchild.id]);
        coffer.ok(["restart", "-t", "0", &grandchild.id]);
        assert_eq!(grandchild.status(), "running");
    }
}

#[test]
fn a_snapshot_outlives_its_sandbox() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("while :; do echo x >> /dev/shm/steps; /bin/true; done");
    until("steps", || journal(&sandbox, "/dev/shm/steps").len() > 3);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.ok(["rm", "-f", &sandbox.id]);
    coffer.ok(["snapshot", "verify", &snapshot.id]);
    let forks = [snapshot.fork(&[]), snapshot.fork(&[])];
    for fork in &forks {
        let steps = journal(fork, "/dev/shm/steps").len();
        assert!(steps > 3);
        until("more steps", || {
            journal(fork, "/dev/shm/steps").len() > steps
        });
    }
}
