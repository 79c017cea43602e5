//! `coffer stats`: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use cofferdam_testkit::coffer::Coffer;
use serde_json::Value;

fn value(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_busy_sandbox_shows_its_processor_and_memory() {
    let coffer = Coffer::shared();
    let busy = coffer.script("while :; do :; done");
    let sample = value(&coffer.ok(["stats", "--no-stream", "--json", &busy.id]));
    assert_eq!(sample["id"], busy.id.as_str());
    let percent = sample["cpu_percent"].as_f64().unwrap();
    // A share of one processor; this host may give it less.
    assert!(percent > 1.0, "{sample}");
    assert!(
        sample["memory_bytes"].as_u64().unwrap() > 1 << 20,
        "{sample}"
    );
    assert_eq!(sample["memory_limit_bytes"], 512 << 20);
    let table = coffer.ok(["stats", "--no-stream", &busy.id]);
    assert!(
        table.contains("MEM USAGE / LIMIT") && table.contains("512.0 MiB"),
        "{table}"
    );
    let row = coffer.ok([
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.CPUPerc}}",
        &busy.id,
    ]);
    assert!(row.ends_with('%'), "{row}");
}

#[test]
fn a_follower_gets_samples_until_the_sandbox_ends() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let mut follower = coffer
        .command(["stats", "--json", &sandbox.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut cpu_time = || {
        let line = lines.next()?.unwrap();
        value(&line)["cpu_time_ms"].as_u64()
    };
    let (first, second) = (cpu_time().unwrap(), cpu_time().unwrap());
    assert!(first <= second);
    coffer.ok(["kill", &sandbox.id]);
    while cpu_time().is_some() {}
    assert!(follower.wait().unwrap().success());
    coffer.refused(&["stats", &sandbox.id], &["is stopped"]);
}

#[test]
fn without_a_name_sandboxes_that_start_later_are_shown_too() {
    let coffer = Coffer::shared();
    let mut follower = coffer
        .command(["stats", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let early = coffer.sleeper();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut seen = |id: &str| lines.any(|line| value(&line.unwrap())["id"] == id);
    assert!(seen(&early.id));
    let late = coffer.sleeper();
    assert!(seen(&late.id));
    follower.kill().unwrap();
    follower.wait().unwrap();
}
