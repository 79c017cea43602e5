//! `coffer restore`: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::time::{Duration, Instant};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    copies::{
        STAMP, Snapshot, assert_right, common, damage, first_of_its_own, journal, now, stamps_after,
    },
    sandboxes::{unique_name, until},
};

/// Counts in memory and, with each step, in a file.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >> /count; /bin/true; done";

fn count(sandbox: &Sleeper<'_>) -> Vec<u64> {
    let lines = journal(sandbox, "/count");
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_restored_sandbox_goes_on_from_the_moment_under_its_own_id_and_name() {
    let coffer = Coffer::shared();
    let name = unique_name("again");
    let sandbox = coffer.detached(&["--name", &name, BUSYBOX, "sh", "-c", COUNT]);
    until("a count", || count(&sandbox).len() > 3);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let seen = count(&sandbox).len();
    sandbox.sh("echo later > /later; sync");
    until("more", || count(&sandbox).len() > seen + 20);
    let lost = count(&sandbox).len();
    let names = "hostname; cat /etc/machine-id";
    let before = sandbox.sh(names);
    coffer.ok(["kill", &sandbox.id]);
    assert_eq!(coffer.ok(["restore", &snapshot.id]), sandbox.id);
    assert_eq!(sandbox.status(), "running");
    assert_eq!(coffer.inspect(&name)["id"], sandbox.id);
    assert_eq!(sandbox.sh(names), before);
    assert_ne!(sandbox.exec(&["test", "-e", "/later"]).code, 0);
    // It counts on from the moment, and comes to where it was.
    until("the count of before", || count(&sandbox).len() > lost);
    let all: Vec<u64> = (1..).take(lost).collect();
    assert_eq!(count(&sandbox)[..lost], all);
}

#[test]
fn a_live_sandbox_is_not_restored_over() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    sandbox.sh("echo precious > /precious");
    coffer.refused(&["restore", &snapshot.id], &["is running", "hint: "]);
    coffer.ok(["pause", &sandbox.id]);
    coffer.refused(&["restore", &snapshot.id], &["is paused", "hint: "]);
    coffer.ok(["unpause", &sandbox.id]);
    assert_eq!(sandbox.sh("cat /precious"), "precious");
}

#[test]
fn a_removed_sandbox_comes_back() {
    let coffer = Coffer::shared();
    let name = unique_name("removed");
    let labels = ["--name", &name, "--label", "tier=front"];
    let sandbox = coffer.detached(&[&labels[..], &[BUSYBOX, "sh", "-c", COUNT]].concat());
    until("a count", || count(&sandbox).len() > 3);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.ok(["rm", "-f", &sandbox.id]);
    coffer.refused(&["inspect", &name], &["no sandbox"]);
    let restored = coffer.json(["restore", "--json", &snapshot.id]);
    assert_eq!(restored["id"], sandbox.id);
    assert_eq!(restored["name"], name);
    assert_eq!(restored["status"], "running");
    assert_eq!(restored["labels"]["tier"], "front");
    let begun = count(&sandbox).len();
    assert!(begun > 3);
    until("more", || count(&sandbox).len() > begun);
}

#[test]
fn a_name_that_another_has_taken_is_in_the_way() {
    let coffer = Coffer::private();
    let sandbox = coffer.detached(&["--name", "wanted", BUSYBOX, "sleep", "1000000"]);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.ok(["rm", "-f", "wanted"]);
    let other = coffer.keep(coffer.ok(["create", "--name", "wanted", BUSYBOX, "true"]));
    coffer.refused(&["restore", &snapshot.id], &["`wanted`"]);
    assert_eq!(coffer.ok(["ps", "-aq", "--no-trunc"]), other.id);
    coffer.ok(["rm", &other.id]);
    assert_eq!(coffer.ok(["restore", &snapshot.id]), sandbox.id);
}

#[test]
fn a_sandbox_is_restored_again_and_again() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    sandbox.sh("echo first > /file; echo first > /dev/shm/file");
    let first = Snapshot::of(&coffer, &sandbox.id, &[]);
    sandbox.sh("echo second > /file; echo second > /dev/shm/file");
    let second = Snapshot::of(&coffer, &sandbox.id, &[]);
    for (snapshot, content) in [
        (&first, "first"),
        (&second, "second"),
        (&first, "first"),
        (&first, "first"),
    ] {
        sandbox.sh("echo lost > /file; sync");
        coffer.ok(["kill", &sandbox.id]);
        coffer.ok(["restore", &snapshot.id]);
        assert_eq!(
            sandbox.sh("cat /file /dev/shm/file"),
            format!("{content}\n{content}")
        );
    }
}

#[test]
fn a_disk_is_put_back_and_started_from() {
    let coffer = Coffer::shared();
    let script = "cat /kept; echo run >> /kept";
    let sandbox = coffer.script(script);
    coffer.ok(["wait", &sandbox.id]);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    assert_eq!(coffer.ok(["start", "-a", &sandbox.id]), "run");
    assert_eq!(coffer.ok(["start", "-a", &sandbox.id]), "run\nrun");
    assert_eq!(coffer.ok(["restore", &snapshot.id]), sandbox.id);
    assert_eq!(sandbox.status(), "stopped");
    assert_eq!(coffer.ok(["start", "-a", &sandbox.id]), "run");
    // Of one that is gone too.
    coffer.ok(["rm", &sandbox.id]);
    assert_eq!(coffer.ok(["restore", &snapshot.id]), sandbox.id);
    assert_eq!(coffer.ok(["start", "-a", &sandbox.id]), "run");
}

#[test]
fn a_restored_workload_ends_as_it_would_have_and_starts_afresh() {
    let coffer = Coffer::shared();
    let script = "echo begin; while ! test -e /end; do /bin/true; done; rm /end; echo end; exit 6";
    let sandbox = coffer.script(script);
    until("output", || !coffer.ok(["logs", &sandbox.id]).is_empty());
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.ok(["kill", &sandbox.id]);
    coffer.ok(["restore", &snapshot.id]);
    sandbox.send(&["touch", "/end"]);
    assert_eq!(coffer.ok(["wait", &sandbox.id]), "6");
    assert_eq!(sandbox.inspect()["exit_code"], 6);
    assert!(coffer.ok(["logs", &sandbox.id]).ends_with("end"));
    // Its next start is one from the disk, not from the moment.
    coffer.ok(["start", &sandbox.id]);
    let begins = || coffer.ok(["logs", &sandbox.id]).matches("begin").count();
    until("a second beginning", || begins() == 2);
}

#[test]
fn the_wall_clock_is_right_before_a_restored_sandboxs_first_instruction() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script(STAMP);
    stamps_after(&sandbox, Duration::ZERO);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let taken = Instant::now();
    // What a copy of the same moment has in common with it was stamped before.
    let theirs = stamps_after(&snapshot.fork(&[]), now());
    coffer.ok(["kill", &sandbox.id]);
    while taken.elapsed() < Duration::from_millis(300) {
        coffer.ok(["snapshot", "verify", &snapshot.id]);
    }
    let from = now();
    coffer.ok(["restore", &snapshot.id]);
    let ours = stamps_after(&sandbox, from);
    let to = now();
    assert_right(first_of_its_own(&ours, &theirs), from, to);
    assert_right(*ours.last().unwrap(), from, to);
}

#[test]
fn a_restored_sandbox_draws_other_random_numbers_than_before() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("while :; do head -c 16 /dev/urandom | md5sum; done > /draws");
    let draws = || journal(&sandbox, "/draws");
    until("draws", || draws().len() > 3);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let seen = draws().len();
    until("more draws", || draws().len() > seen + 3);
    let before = draws();
    coffer.ok(["kill", &sandbox.id]);
    coffer.ok(["restore", &snapshot.id]);
    until("new draws", || draws().len() > before.len());
    let after = draws();
    let shared = common(&before, &after);
    assert!((4..before.len()).contains(&shared), "{shared} of {seen}");
    let twice = after[shared..].iter().filter(|draw| before.contains(draw));
    assert_eq!(twice.count(), 0);
}

#[test]
fn a_snapshot_may_go_while_what_was_restored_from_it_runs() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    sandbox.sh("seq 1000 > /dev/shm/kept");
    let sum = sandbox.sh("md5sum /dev/shm/kept");
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.ok(["kill", &sandbox.id]);
    coffer.ok(["restore", &snapshot.id]);
    coffer.ok(["snapshot", "rm", &snapshot.id]);
    assert_eq!(sandbox.sh("md5sum /dev/shm/kept"), sum);
    let fork = sandbox.fork(&[]);
    assert_eq!(fork.sh("md5sum /dev/shm/kept"), sum);
    coffer.refused(&["restore", &snapshot.id], &["no snapshot"]);
}

#[test]
fn a_snapshot_that_cannot_go_on_does_not_take_the_disk_that_is_there() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    sandbox.sh("echo precious > /precious; sync");
    coffer.ok(["kill", &sandbox.id]);
    damage(&snapshot.file("state"), 5000);
    coffer.refused(&["restore", &snapshot.id], &["`state`", "changed"]);
    damage(&snapshot.file("state"), 5000);
    let manifest = snapshot.file("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let foreign = text.replace("; processor max,", "; processor another,");
    assert_ne!(foreign, text);
    std::fs::write(&manifest, foreign).unwrap();
    coffer.refused(
        &["restore", &snapshot.id],
        &["cannot continue", "processor: it has", "`--disk-only`"],
    );
    assert_eq!(sandbox.status(), "stopped");
    coffer.ok(["start", &sandbox.id]);
    assert_eq!(sandbox.sh("cat /precious"), "precious");
}
