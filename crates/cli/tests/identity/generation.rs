//! How a program in the guest finds out that it was copied: the generation file and the fork hook.

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    copies::Snapshot,
    sandboxes::until,
};

use super::{IMAGE, coffer};

const FILE: &str = "/run/cofferdam/generation";

/// What a line of the generation file says.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no `{key}` in {text}"))
}

#[test]
fn the_generation_file_changes_in_each_fork_and_restore_and_wakes_a_watch() {
    let coffer = coffer();
    let parent = coffer.detached(&[IMAGE, "probe", "watch"]);
    until("the watch", || {
        coffer.ok(["logs", &parent.id]) == "watching"
    });
    let read = format!("cat {FILE}");
    let first = parent.sh(&read);
    assert_eq!(value(&first, "CAUSE"), "start");
    let (one, other) = (parent.fork(&[]), parent.fork(&[]));
    for fork in [&one, &other] {
        // The event was there before the first instruction of the copy.
        until("the event in a fork", || {
            coffer.ok(["logs", &fork.id]).contains("CAUSE=fork")
        });
        assert_eq!(value(&fork.sh(&read), "CAUSE"), "fork");
    }
    let generations =
        [&parent, &one, &other].map(|sandbox| value(&sandbox.sh(&read), "GENERATION").to_owned());
    let [of_parent, of_one, of_other] = &generations;
    assert_eq!(of_parent, value(&first, "GENERATION"));
    assert!(of_one != of_parent && of_other != of_parent && of_one != of_other);
    // The parent is no copy.
    assert_eq!(coffer.ok(["logs", &parent.id]), "watching");

    let snapshot = Snapshot::of(&coffer, &one.id, &[]);
    coffer.ok(["kill", &one.id]);
    coffer.ok(["restore", &snapshot.id]);
    let restored = one.sh(&read);
    assert_eq!(value(&restored, "CAUSE"), "restore");
    assert_ne!(value(&restored, "GENERATION"), of_one);
    // A user of the guest cannot change the file.
    let refused = one.exec(&["sh", "-c", &format!("echo x > {FILE}")]);
    assert_ne!(refused.code, 0, "{refused:?}");
}

#[test]
fn the_fork_hook_runs_before_a_copied_process_goes_on() {
    let coffer = coffer();
    // The workload counts in a file of its own while the hook has not run in this copy.
    let workload =
        "while :; do [ -e /hook ] && { echo went on; exec sleep 1000; }; sleep 0.01; done";
    let hook = format!("sleep 0.2; cat {FILE} > /hook; hostname >> /hook; echo $COLOUR >> /hook");
    let args = [
        "--on-fork",
        &hook,
        "-e",
        "COLOUR=blue",
        BUSYBOX,
        "sh",
        "-c",
        workload,
    ];
    let parent = coffer.detached(&args);
    assert_eq!(parent.exec(&["test", "-e", "/hook"]).code, 1);
    let fork = parent.fork(&[]);
    let wrote = fork.sh("cat /hook");
    assert_eq!(value(&wrote, "CAUSE"), "fork");
    assert!(
        wrote.ends_with(&format!("{}\nblue", &fork.id[..12])),
        "{wrote}"
    );
    until("the workload goes on", || {
        coffer.ok(["logs", &fork.id]) == "went on"
    });

    let snapshot = Snapshot::of(&coffer, &parent.id, &[]);
    coffer.ok(["kill", &parent.id]);
    coffer.ok(["restore", &snapshot.id]);
    assert_eq!(value(&parent.sh("cat /hook"), "CAUSE"), "restore");
}

#[test]
fn a_fork_whose_hook_fails_is_no_fork_and_leaves_nothing() {
    let coffer = Coffer::private();
    let hook = "(sleep 1000 &) ; echo no key is left >&2; exit 3";
    let parent = coffer.detached(&["--on-fork", hook, BUSYBOX, "sleep", "1000"]);
    coffer.refused(&["fork", &parent.id], &["ended with 3", "no key is left"]);
    assert_eq!(coffer.ok(["ps", "-aq", "--no-trunc"]), parent.id);
    assert_eq!(parent.sh("echo alive"), "alive");
    let empty = coffer.run(["run", "--on-fork", " ", BUSYBOX, "true"]);
    assert_eq!(empty.code, 125, "{empty:?}");
}

#[test]
fn a_start_from_a_held_workload_runs_the_templates_hook() {
    let coffer = Coffer::private();
    let workload = "echo ready; exec sleep 1000";
    let command = [BUSYBOX, "sh", "-c", workload];
    let hook = format!("cat {FILE} > /hook");
    let build = [
        "template",
        "build",
        "--wait-for",
        "ready",
        "--on-fork",
        &hook,
    ];
    // A held workload's random numbers repeat; the user hears of it when there is no hook.
    let without = coffer.run([&build[..4], &command].concat());
    assert_eq!(without.code, 0, "{without:?}");
    assert!(without.stderr.contains("random numbers"), "{without:?}");
    let with = coffer.run([&build[..], &command].concat());
    assert_eq!((with.code, with.stderr.as_str()), (0, ""), "{with:?}");
    let sandbox = coffer.detached(&command);
    assert_eq!(value(&sandbox.sh("cat /hook"), "CAUSE"), "template");
}
