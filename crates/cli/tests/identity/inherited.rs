//! What is a copy: processes, connections, memory, disk.

use std::io::Write as _;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Sleeper},
    sandboxes::until,
};

use super::{ask, coffer, live};

/// How often each link of `probe live` was used; the lock, the pipe, the connection.
fn links(sandbox: &Sleeper<'_>) -> Vec<u64> {
    let answer = ask(sandbox, "links");
    let counts = answer.split(' ').map(str::parse);
    counts
        .collect::<Result<_, _>>()
        .unwrap_or_else(|_| panic!("{answer}"))
}

/// Each process of a sandbox's workload: number, parent, command.
fn processes(sandbox: &Sleeper<'_>) -> Vec<String> {
    let stat = "for p in /proc/[0-9]*; do read line < $p/stat; echo $line; done";
    let text = sandbox.sh(stat);
    text.lines()
        .filter(|line| line.contains("(probe)"))
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn locks_pipes_and_connections_within_a_sandbox_are_whole_in_both() {
    let coffer = coffer();
    let parent = live(&coffer, &[]);
    let all_above = |sandbox: &Sleeper<'_>, counts: &[u64]| {
        let now = links(sandbox);
        now.iter().zip(counts).all(|(now, count)| *now > *count)
    };
    until("the first exchanges", || all_above(&parent, &[3; 3]));
    let before = links(&parent);
    let fork = parent.fork(&[]);
    let second = fork.fork(&[]);
    for sandbox in [&parent, &fork, &second] {
        let begun = links(sandbox);
        assert!(begun.iter().zip(&before).all(|(now, then)| now >= then));
        until("further exchanges", || all_above(sandbox, &begun));
    }
}

#[test]
fn processes_keep_their_numbers() {
    let coffer = coffer();
    let parent = live(&coffer, &[]);
    let before = processes(&parent);
    assert_eq!(before.len(), 2, "{before:?}");
    assert_eq!(processes(&parent.fork(&[])), before);
}

#[test]
fn a_fork_has_no_network_but_its_own_loopback() {
    let coffer = coffer();
    let parent = live(&coffer, &["--network", "none"]);
    let fork = parent.fork(&[]);
    for sandbox in [&parent, &fork] {
        assert_eq!(sandbox.sh("ls /sys/class/net"), "lo");
        let listening = sandbox.sh("cat /proc/net/tcp");
        // Nobody is reachable from without: 127.0.0.1 in the kernel's notation.
        let addresses = listening
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(1).unwrap());
        for address in addresses {
            assert!(address.starts_with("0100007F:"), "{listening}");
        }
    }
}

#[test]
fn a_fork_has_its_parents_memory_and_nothing_of_the_host_or_its_caller() {
    let coffer = coffer();
    let parent = live(&coffer, &["-e", "TOKEN=of-the-parent"]);
    let canary = format!("canary-{}", std::process::id());
    let forked = coffer
        .command(["fork", &parent.id])
        .env("TOKEN", &canary)
        .env("OTHER_TOKEN", &canary)
        .output()
        .unwrap();
    let fork = coffer.keep(String::from_utf8(forked.stdout).unwrap().trim().to_owned());
    assert_eq!(ask(&fork, "variable TOKEN"), "of-the-parent");
    assert_eq!(fork.sh("echo $TOKEN"), "of-the-parent");
    let variables = fork.sh("cat /proc/[0-9]*/environ | tr '\\0' '\\n'; env");
    assert!(!variables.contains(&canary), "{variables}");
}

#[test]
fn the_parents_input_is_the_parents_and_the_forks_waits_for_somebody_to_attach() {
    let coffer = coffer();
    let script = "while read x; do echo got $x; done; echo over";
    let parent = coffer.detached(&["-i", BUSYBOX, "sh", "-c", script]);
    let feed = |sandbox: &Sleeper<'_>, line: &str, wanted: &str| {
        let mut client = coffer
            .command(["attach", &sandbox.id])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        until(wanted, || {
            coffer.ok(["logs", &sandbox.id]).ends_with(wanted)
        });
        client.kill().unwrap();
        client.wait().unwrap();
    };
    feed(&parent, "one\n", "got one");
    let fork = parent.fork(&[]);
    feed(&parent, "two\n", "got two");
    assert_eq!(fork.status(), "running");
    feed(&fork, "three\n", "got three");
    assert_eq!(coffer.ok(["logs", &fork.id]), "got three");
    assert_eq!(coffer.ok(["logs", &parent.id]), "got one\ngot two");
}

#[test]
fn what_the_parent_had_not_yet_written_to_its_disk_reaches_the_forks() {
    let coffer = coffer();
    let parent = coffer.sleeper();
    parent.sh("seq 100000 > /dirty; rm /bin/seq");
    let fork = parent.fork(&[]);
    parent.sh("echo after > /dirty");
    let sum = "md5sum < /dirty; test -e /bin/seq || echo removed";
    let before = fork.sh(sum);
    coffer.ok(["rm", "-f", &parent.id]);
    coffer.ok(["kill", &fork.id]);
    coffer.ok(["start", &fork.id]);
    assert_eq!(fork.sh(sum), before);
    assert_eq!(
        fork.sh("tail -n 1 /dirty; wc -l < /dirty"),
        "100000\n100000"
    );
    assert!(before.ends_with("removed"), "{before}");
}
