//! What a fork may have that its source has not, and names that mean two things.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    copies::Snapshot,
    sandboxes::until,
};

#[test]
fn forks_differ_as_they_are_told_and_know_their_numbers() {
    let coffer = Coffer::shared();
    let parent = coffer.detached(&["--rm", "-l", "of=parent", BUSYBOX, "sleep", "1000000"]);
    let flags = [
        "fork",
        "-c",
        "2",
        "-e",
        "A=fork",
        "-l",
        "of=fork",
        "-l",
        "new=1",
        "--cpus",
        "0.5",
        "-m",
        "256m",
        "--hostname",
        "box",
        "-w",
        "/tmp",
        "--rm=false",
        &parent.id,
    ];
    let forks: Vec<_> = coffer
        .ok(flags)
        .lines()
        .map(|id| coffer.keep(id.to_owned()))
        .collect();
    assert_eq!(forks.len(), 2);
    for (number, fork) in (1..).zip(&forks) {
        let script = "echo $A $COFFER_FORK_INDEX $HOSTNAME; hostname; pwd; \
                      cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max; \
                      grep FORK_INDEX /run/cofferdam/generation";
        let name = format!("box-{number}");
        let expected = format!(
            "fork {number} {name}\n{name}\n/tmp\n50000 100000\n268435456\nFORK_INDEX={number}"
        );
        assert_eq!(fork.sh(script), expected);
        let info = fork.inspect();
        assert_eq!(info["labels"]["of"], "fork", "{info}");
        assert_eq!(info["labels"]["new"], "1", "{info}");
        assert_eq!(info["forked_from"]["index"], number, "{info}");
        assert_eq!(info["spec"]["auto_remove"], false, "{info}");
    }
    assert_eq!(
        parent.sh("echo $A$COFFER_FORK_INDEX; hostname"),
        format!("\n{}", &parent.id[..12]).trim()
    );

    for (flag, value) in [
        ("-m", "64g"),
        ("--cpus", "32"),
        ("--disk", "1g"),
        ("--user", "7"),
    ] {
        let name = if flag == "-m" { "--memory" } else { flag };
        coffer.refused(&["fork", flag, value, &parent.id], &[name, "hint"]);
    }
    let plain = coffer.run(["fork", &parent.id]);
    assert_eq!(plain.code, 0, "{plain:?}");
    assert!(plain.stderr.contains("`--rm`"), "{plain:?}");
    drop(coffer.keep(plain.text()));
}

#[test]
fn a_fork_of_a_disk_has_a_machine_of_its_own() {
    let coffer = Coffer::shared();
    let parent = coffer.script("nproc; echo $A $COFFER_FORK_INDEX");
    coffer.ok(["wait", &parent.id]);
    let fork = coffer.ok([
        "fork", "--cpus", "1", "-m", "768m", "-e", "A=later", &parent.id,
    ]);
    let fork = coffer.keep(fork);
    assert_eq!(coffer.ok(["start", "-a", &fork.id]), "1\nlater 1");
    assert_eq!(
        fork.inspect()["spec"]["memory"],
        coffer.inspect(&fork.id)["spec"]["memory"]
    );
}

#[test]
fn a_fork_at_the_end_of_the_workload_has_what_it_left() {
    let coffer = Coffer::shared();
    for _ in 0..3 {
        let parent = coffer.script("while ! test -e /end; do :; done; echo over > /left");
        let end = coffer
            .command(["exec", "-d", &parent.id, "touch", "/end"])
            .spawn();
        let forked = coffer.run(["fork", &parent.id]);
        assert!(end.unwrap().wait().is_ok());
        assert_eq!(forked.code, 0, "{forked:?}");
        let fork = coffer.keep(forked.text());
        // Either it goes on to that end, or it was there already.
        assert!(["running", "stopped", "created"].contains(&fork.status().as_str()));
    }
}

#[test]
fn a_name_of_a_sandbox_and_a_snapshot_is_not_guessed_at() {
    let coffer = Coffer::private();
    let parent = coffer.detached(&[
        "--name",
        "both",
        BUSYBOX,
        "sh",
        "-c",
        "echo first; sleep 1000000",
    ]);
    until("its output", || coffer.ok(["logs", "both"]) == "first");
    let snapshot = Snapshot::of(&coffer, &parent.id, &["-n", "both"]);
    let refused = coffer.refused(&["fork", "both"], &["sandbox and a snapshot"]);
    assert!(refused.stderr.contains(&snapshot.id[..12]), "{refused:?}");
    drop(coffer.keep(coffer.ok(["fork", &snapshot.id])));
    coffer.refused(&["fork", "-n", "both", &parent.id], &["taken", "`-n`"]);

    // A restore under another name, once the sandbox is gone; the log says where time went back.
    coffer.refused(
        &["restore", "-n", "other", "both"],
        &["`both`", "coffer fork -n other"],
    );
    coffer.ok(["rm", "-f", "both"]);
    coffer.ok(["restore", "-n", "other", "both"]);
    assert_eq!(coffer.inspect("other")["id"], parent.id.as_str());
    let log = coffer.run(["logs", "other"]);
    assert!(
        log.stderr.contains("restored from snapshot `both`"),
        "{log:?}"
    );
    coffer.ok(["rm", "-f", "other"]);
}

#[test]
fn a_command_of_a_template_that_does_not_end_is_ended() {
    let coffer = Coffer::shared();
    let build = [
        "template",
        "build",
        "--cpus",
        "1",
        "--timeout",
        "2",
        BUSYBOX,
        "--exec",
        "echo up; sleep 1000",
    ];
    coffer.refused(
        &build,
        &[
            "did not end in 2 s",
            "it printed `up`",
            "--wait-for",
            "--timeout",
        ],
    );
    let help = coffer.ok(["template", "build", "--help"]);
    assert!(help.contains("IMAGE [COMMAND]"), "{help}");
}
