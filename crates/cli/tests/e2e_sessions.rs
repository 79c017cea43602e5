//! Sessions that outlive their client, and `top`: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use cofferdam_testkit::{
    coffer::{Coffer, Sleeper},
    sandboxes::until,
};
use serde_json::Value;

fn json(coffer: &Coffer, args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&coffer.ok(args)).unwrap()
}

fn detached(coffer: &Coffer, sandbox: &Sleeper<'_>, flags: &[&str], script: &str) -> String {
    let command = [sandbox.id.as_str(), "sh", "-c", script];
    coffer.ok([&["exec", "-d"][..], flags, &command[..]].concat())
}

#[test]
fn a_detached_command_is_listed_attached_to_and_its_exit_is_kept() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let id = detached(
        &coffer,
        &sandbox,
        &["-i"],
        "while read x; do echo got $x; done; exit 6",
    );
    let listed = || json(&coffer, &["sessions", "--json", &sandbox.id]);
    assert_eq!(listed()[0]["session"].to_string(), id);
    assert!(listed()[0]["exit_code"].is_null());
    let mut attached = coffer
        .command(["attach", "--session", &id, &sandbox.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(attached.stdout.take().unwrap()).lines();
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got one");
    // A client that is killed takes nothing along.
    attached.kill().unwrap();
    attached.wait().unwrap();
    until("its leaving", || listed()[0]["clients"] == 0);
    let input = b"two\n";
    let done = coffer.run_with_input(["attach", "--session", &id, &sandbox.id], input);
    assert_eq!(
        (done.code, done.text().as_str()),
        (6, "got two"),
        "{done:?}"
    );
    assert_eq!(listed()[0]["exit_code"], 6);
    let late = coffer.run(["attach", "--no-stdin", "--session", &id, &sandbox.id]);
    assert_eq!(late.code, 6, "{late:?}");
    let table = coffer.ok(["sessions", &sandbox.id]);
    assert!(table.contains("Exited (6)"), "{table}");
    assert_eq!(coffer.ok(["sessions", "-q", &sandbox.id]), id);
    coffer.refused(
        &["attach", "--session", "999", &sandbox.id],
        &["no session 999"],
    );
}

#[test]
fn a_detached_command_without_a_reader_never_waits_for_one() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    detached(
        &coffer,
        &sandbox,
        &[],
        "yes | head -c 3000000; touch /tmp/done",
    );
    until("its end", || {
        sandbox.exec(&["test", "-e", "/tmp/done"]).code == 0
    });
}

#[test]
fn top_lists_the_processes_of_an_image_without_ps() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    detached(
        &coffer,
        &sandbox,
        &["-u", "1000"],
        "sleep 1000 & sleep 1001; true",
    );
    let commands = || {
        let all = json(&coffer, &["top", "--json", &sandbox.id]);
        let command = |process: &Value| process["command"].as_str().unwrap().to_owned();
        let commands: Vec<String> = all.iter().map(command).collect();
        (all, commands)
    };
    until("the children", || commands().1.len() == 4);
    let (all, commands) = commands();
    assert_eq!(all[0]["pid"], 1);
    assert!(commands[0].starts_with("sleep"), "{commands:?}");
    let shell = all
        .iter()
        .position(|process| process["command"].as_str().unwrap().starts_with("sh"));
    let shell = &all[shell.unwrap()];
    assert_eq!((&shell["uid"], &shell["ppid"]), (&1000.into(), &0.into()));
    let children = all.iter().filter(|process| process["ppid"] == shell["pid"]);
    assert_eq!(children.count(), 2, "{all:?}");
    assert!(
        all.iter()
            .all(|process| process["memory_bytes"].as_u64().unwrap() > 0)
    );
    let table = coffer.ok(["top", &sandbox.id]);
    assert!(
        table.starts_with("UID") && table.contains("sleep 1001"),
        "{table}"
    );
    coffer.ok(["pause", &sandbox.id]);
    coffer.refused(&["top", &sandbox.id], &["is paused"]);
    coffer.ok(["unpause", &sandbox.id]);
}
