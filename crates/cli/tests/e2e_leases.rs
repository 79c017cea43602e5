//! Time-outs of sandboxes: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::until,
};

#[test]
fn an_abandoned_sandbox_ends_and_says_why() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--timeout", "1s", BUSYBOX, "sleep", "1h"]);
    until("the end", || sandbox.status() == "stopped");
    let info = sandbox.inspect();
    assert_eq!(info["ended_by"], "timeout");
    assert_eq!(info["exit_code"], 137);
    assert_eq!(info["spec"]["lease"]["timeout_ms"], 1000);
    assert!(info["lease"].is_null(), "{info}");
    let waited = coffer.run(["wait", &sandbox.id]);
    assert_eq!(waited.text(), "137");
    assert!(
        waited.stderr.contains("its time-out was over"),
        "{waited:?}"
    );
    let table = coffer.ok(["ps", "-a", "--no-trunc"]);
    let row = table.lines().find(|row| row.starts_with(&sandbox.id));
    assert!(row.unwrap().contains("(timed out)"), "{table}");
}

#[test]
fn a_client_that_follows_the_sandbox_reads_why_it_ended() {
    let coffer = Coffer::shared();
    let done = coffer.run(["run", "--rm", "--timeout", "1s", BUSYBOX, "sleep", "1h"]);
    assert_eq!(done.code, 137, "{done:?}");
    assert!(done.stderr.contains("its time-out was over"), "{done:?}");
}

#[test]
fn an_exec_keeps_an_idle_sandbox_and_its_end_lets_it_go() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--idle-timeout", "5s", BUSYBOX, "sleep", "1h"]);
    // The command must begin before the sandbox was idle for too long.
    let done = sandbox.exec(&["sh", "-c", "sleep 7; echo done"]);
    assert_eq!((done.code, done.text().as_str()), (0, "done"), "{done:?}");
    until("the end", || sandbox.status() == "stopped");
    assert_eq!(sandbox.inspect()["ended_by"], "idle_timeout");
}

#[test]
fn a_lease_that_pauses_begins_anew_with_the_unpause() {
    let coffer = Coffer::shared();
    let args = [
        "--timeout",
        "1s",
        "--on-timeout",
        "pause",
        BUSYBOX,
        "sleep",
        "1h",
    ];
    let sandbox = coffer.detached(&args);
    until("a pause", || sandbox.status() == "paused");
    let lease = sandbox.inspect()["lease"].clone();
    assert_eq!(lease["over"], "timeout");
    assert_eq!(coffer.ok(["timeout", &sandbox.id, "1h"]), sandbox.id);
    coffer.ok(["unpause", &sandbox.id]);
    assert_eq!(sandbox.exec(&["true"]).code, 0);
    let now = sandbox.inspect()["lease"].clone();
    assert!(now["over"].is_null(), "{now}");
    let hour_ns = 3_600_000_000_000;
    let later = now["ends_ns"].as_u64().unwrap() - lease["ends_ns"].as_u64().unwrap();
    assert!(later >= hour_ns, "{later}");
}

#[test]
fn a_time_out_is_changed_extended_and_taken_away() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--timeout", "1h", BUSYBOX, "sleep", "1h"]);
    let ends = || sandbox.inspect()["lease"]["ends_ns"].as_u64();
    let first = ends().unwrap();
    coffer.ok(["timeout", "--extend", &sandbox.id, "10m"]);
    let unchanged = ends().unwrap();
    // It is computed anew from two clocks, between which a busy host may do something else.
    assert!(unchanged.abs_diff(first) < 60_000_000_000);
    coffer.ok(["timeout", &sandbox.id, "10m"]);
    assert!(ends().unwrap() < first);
    coffer.ok(["timeout", &sandbox.id, "none"]);
    assert_eq!(ends(), None);
    // A fork has the time-out of the spec, from its own start; a restart too.
    let fork = sandbox.fork(&[]);
    let of_fork = fork.inspect()["lease"]["ends_ns"].as_u64().unwrap();
    assert!(of_fork > first);
    coffer.ok(["restart", "-t", "0", &sandbox.id]);
    assert!(ends().unwrap() > first);
}

#[test]
fn time_outs_that_cannot_be_are_refused() {
    let coffer = Coffer::shared();
    let on_timeout = ["create", "--on-timeout", "pause", BUSYBOX, "true"];
    coffer.refused(&on_timeout, &["There is no time-out", "hint: "]);
    for value in ["0", "soon", "-1"] {
        let done = coffer.run(["create", "--timeout", value, BUSYBOX, "true"]);
        assert_eq!(done.code, 125, "{value}: {done:?}");
    }
    let created = coffer.keep(coffer.ok(["create", BUSYBOX, "true"]));
    coffer.refused(&["timeout", &created.id, "5m"], &["is created"]);
}

#[test]
fn the_time_of_a_claimed_standby_and_of_a_restored_sandbox_is_its_own() {
    let coffer = Coffer::private();
    coffer.ok(["pool", "create", "--name", "leases", "--size", "1", BUSYBOX]);
    let args = ["--timeout", "2s", BUSYBOX, "sleep", "1h"];
    let started = coffer.run([&["run", "-d", "--timings"][..], &args].concat());
    assert!(
        started
            .stderr
            .lines()
            .any(|line| line.ends_with(" standby")),
        "{started:?}"
    );
    let sandbox = coffer.keep(started.text());
    until("the end", || sandbox.status() == "stopped");
    assert_eq!(sandbox.inspect()["ended_by"], "timeout");
    coffer.ok(["pool", "rm", "leases"]);

    let source = coffer.detached(&["--timeout", "1h", BUSYBOX, "sleep", "1h"]);
    let ends = || source.inspect()["lease"]["ends_ns"].as_u64();
    let before = ends().unwrap();
    let snapshot = coffer.ok(["snapshot", "create", &source.id]);
    coffer.ok(["kill", &source.id]);
    assert_eq!(ends(), None, "one that does not run has no time");
    coffer.ok(["restore", &snapshot]);
    assert!(ends().unwrap() > before);
}
