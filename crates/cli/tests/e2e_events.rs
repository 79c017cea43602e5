//! `coffer events`: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use cofferdam_testkit::coffer::{BUSYBOX, Coffer};
use serde_json::Value;

/// All events of a sandbox so far.
fn events(coffer: &Coffer, sandbox: &str) -> Vec<Value> {
    let filter = format!("sandbox={sandbox}");
    let text = coffer.ok([
        "events", "--since", "1h", "--until", "0s", "--json", "-f", &filter,
    ]);
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[test]
fn the_life_of_a_sandbox_is_in_the_journal_in_its_order() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    assert_eq!(sandbox.exec(&["sh", "-c", "exit 3"]).code, 3);
    coffer.ok(["pause", &sandbox.id]);
    coffer.ok(["unpause", &sandbox.id]);
    coffer.ok(["timeout", &sandbox.id, "1h"]);
    let snapshot = coffer.ok(["snapshot", "create", &sandbox.id]);
    let fork = sandbox.fork(&[]);
    coffer.ok(["kill", &sandbox.id]);
    coffer.ok(["restore", &snapshot]);
    coffer.ok(["rm", "-f", &sandbox.id]);
    let all = events(&coffer, &sandbox.id);
    let expected = [
        "created",
        "started",
        "exec_started",
        "exec_ended",
        "paused",
        "unpaused",
        "timeout_changed",
        "snapshot",
        "died",
        "restored",
        "started",
        "died",
        "removed",
    ];
    assert_eq!(types(&all), expected);
    assert_eq!(all[2]["command"], "sh -c exit 3");
    assert_eq!(all[3]["exit_code"], 3);
    assert_eq!(all[2]["session"], all[3]["session"]);
    assert_eq!(
        (&all[8]["exit_code"], &all[8]["by"]),
        (&137.into(), &"kill".into())
    );
    assert_eq!(all[9]["snapshot"], snapshot.as_str());
    assert!(
        all.iter()
            .all(|event| event["image"] == BUSYBOX && event["name"] != "")
    );
    let of_fork = events(&coffer, &fork.id);
    assert_eq!(types(&of_fork), ["forked", "started"]);
    assert_eq!(of_fork[0]["source"], sandbox.id.as_str());
    coffer.ok(["snapshot", "rm", &snapshot]);
}

#[test]
fn a_follower_gets_events_as_they_happen_and_a_filter_keeps_others_away() {
    let coffer = Coffer::shared();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let format = "{{.Actor.ID}} {{.Action}}";
    let since = now.to_string();
    let args = [
        "events", "--since", &since, "--filter", "type=die", "--format", format,
    ];
    let mut command = coffer.command(args);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // Once it has printed the first one, it only follows.
    for _ in 0..2 {
        let sandbox = coffer.sleeper();
        coffer.ok(["kill", &sandbox.id]);
        let expected = format!("{} die", sandbox.id);
        assert!(lines.any(|line| line.unwrap() == expected));
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn an_end_by_a_time_out_and_for_want_of_memory_says_so() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--timeout", "1s", BUSYBOX, "sleep", "1h"]);
    coffer.run(["wait", &sandbox.id]);
    let all = events(&coffer, &sandbox.id);
    let died = all.last().unwrap();
    assert_eq!(
        (&died["type"], &died["by"]),
        (&"died".into(), &"timeout".into())
    );
    let until = coffer.run(["events", "--until", "1s", "--filter", "nonsense"]);
    assert_eq!(until.code, 1, "{until:?}");
    coffer.refused(
        &["events", "--filter", "colour=red"],
        &["is not a filter", "hint: "],
    );
}

#[test]
fn a_stream_ends_at_the_time_that_was_asked_for() {
    let coffer = Coffer::shared();
    let now = std::time::SystemTime::now();
    let end = now + std::time::Duration::from_secs(2);
    let end = end.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let done = coffer.run(["events", "--until", &end.to_string()]);
    assert_eq!(done.code, 0, "{done:?}");
}
