//! `coffer pool`: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::collections::BTreeSet;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::{freeze, is_alive, kill, until},
};
use serde_json::Value;

/// A pool that goes with its test.
struct Pool<'a> {
    coffer: &'a Coffer,
    name: &'static str,
}

impl<'a> Pool<'a> {
    fn create(coffer: &'a Coffer, name: &'static str, args: &[&str]) -> Self {
        let words = [&["pool", "create", "--name", name], args].concat();
        assert_eq!(coffer.ok(words), name);
        Self { coffer, name }
    }

    fn info(&self) -> Value {
        let pools = self.coffer.json(["pool", "list", "--json"]);
        let mut pools = pools.as_array().unwrap().iter();
        pools
            .find(|pool| pool["name"] == self.name)
            .unwrap()
            .clone()
    }

    fn ready(&self) -> u64 {
        self.info()["ready"].as_u64().unwrap()
    }

    /// Process ids of its standbys' supervisors. Source: proc_pid_cmdline(5).
    fn standbys(&self) -> Vec<i32> {
        let home = self.coffer.home().to_str().unwrap();
        let is_ours = |pid: &i32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split('\0').collect();
            words.get(1..4) == Some(&["__stand-by", home, self.name])
        };
        let all = std::fs::read_dir("/proc").unwrap();
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(is_ours)
            .collect()
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // A test that has removed it has done the work.
        let _ = self.coffer.run(["pool", "rm", self.name]);
    }
}

/// Runs a command and tells what it printed, and whether it had a standby.
fn run(coffer: &Coffer, args: &[&str]) -> (String, bool) {
    let finished = coffer.run(["run", "--timings", "--rm"].iter().chain(args));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let claimed = finished
        .stderr
        .lines()
        .any(|line| line.ends_with(" standby"));
    (finished.text(), claimed)
}

#[test]
fn a_run_claims_a_standby_and_another_takes_its_place() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "claims", &["--size", "1", BUSYBOX]);
    assert_eq!(pool.info()["size"], 1);
    assert_eq!(pool.ready(), 1);
    let first = pool.standbys();
    assert_eq!(
        run(&coffer, &[BUSYBOX, "echo", "hello"]),
        ("hello".to_owned(), true)
    );
    until("a new standby", || pool.ready() == 1);
    assert_ne!(pool.standbys(), first);
}

#[test]
fn a_claimed_standby_is_the_sandbox_that_was_asked_for() {
    let coffer = Coffer::private();
    let _pool = Pool::create(&coffer, "identity", &["--size", "2", BUSYBOX]);
    let script = "hostname; cat /etc/machine-id; id -u; pwd; echo $A; echo $$";
    let args = [
        "-e", "A=b", "-u", "app", "-w", "/tmp", BUSYBOX, "sh", "-c", script,
    ];
    let (one, one_claimed) = run(&coffer, &args);
    let (other, other_claimed) = run(&coffer, &args);
    assert!(one_claimed && other_claimed);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (lines(&one), lines(&other));
    for seen in [&one, &other] {
        assert_eq!(seen[2..], ["1000", "/tmp", "b", "1"]);
    }
    let names: BTreeSet<_> = [&one[0], &one[1], &other[0], &other[1]].into();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn an_exit_code_and_a_lasting_sandbox_come_from_a_standby_as_from_any_other() {
    let coffer = Coffer::private();
    let _pool = Pool::create(&coffer, "lasting", &["--size", "2", BUSYBOX]);
    let failed = coffer.run(["run", "--rm", BUSYBOX, "sh", "-c", "exit 7"]);
    assert_eq!(failed.code, 7);
    let script = "[ -f /file ] || echo kept > /file; sleep 1000";
    let sandbox = coffer.detached(&[BUSYBOX, "sh", "-c", script]);
    until("the file", || {
        sandbox.sh("cat /file 2>/dev/null || true") == "kept"
    });
    // Its disk and its machine are its own: it stops, starts, forks.
    let fork = sandbox.fork(&[]);
    assert_eq!(fork.sh("cat /file"), "kept");
    coffer.ok(["stop", "-t", "0", &sandbox.id]);
    coffer.ok(["start", &sandbox.id]);
    assert_eq!(sandbox.sh("cat /file"), "kept");
}

#[test]
fn of_two_that_want_the_last_standby_one_gets_it_and_both_run() {
    let coffer = Coffer::private();
    let _pool = Pool::create(&coffer, "race", &["--size", "1", BUSYBOX]);
    // None takes its place for as long as this is held.
    let filling = cofferdam_testkit::lock(&coffer.home().join("pools/race/fill.lock"));
    let claims = std::thread::scope(|scope| {
        let start = || scope.spawn(|| run(&coffer, &[BUSYBOX, "echo", "ran"]));
        let both = [start(), start()];
        both.map(|thread| thread.join().unwrap())
    });
    assert!(claims.iter().all(|(text, _)| text == "ran"), "{claims:?}");
    let claimed = claims.iter().filter(|(_, claimed)| *claimed).count();
    assert_eq!(claimed, 1, "{claims:?}");
    drop(filling);
}

#[test]
fn another_shape_is_not_served_from_the_pool_and_another_root_is() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "shape", &["--size", "1", BUSYBOX]);
    let other = ["-m", "256m", BUSYBOX, "true"];
    assert!(!run(&coffer, &other).1);
    assert_eq!(pool.ready(), 1);
    let sealed = "touch /x 2> /dev/null || echo refused";
    let sealed = ["--read-only", BUSYBOX, "sh", "-c", sealed];
    assert_eq!(run(&coffer, &sealed), ("refused".to_owned(), true));
    until("another standby", || pool.ready() == 1);
    // A mount is made in the standby's guest.
    let mounts = [
        "--tmpfs",
        "/t",
        BUSYBOX,
        "grep",
        "-c",
        " /t tmpfs ",
        "/proc/mounts",
    ];
    assert_eq!(run(&coffer, &mounts), ("1".to_owned(), true));
}

#[test]
fn a_standby_that_was_killed_is_not_counted_and_not_missed() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "killed", &["--size", "1", BUSYBOX]);
    let [supervisor] = pool.standbys()[..] else {
        panic!("{:?}", pool.standbys())
    };
    kill(supervisor);
    until("its end", || !is_alive(supervisor));
    assert_eq!(
        run(&coffer, &[BUSYBOX, "echo", "hello"]),
        ("hello".to_owned(), false)
    );
    // Who found none has had the pool filled.
    until("a new standby", || pool.ready() == 1);
    let [supervisor] = pool.standbys()[..] else {
        panic!("{:?}", pool.standbys())
    };
    kill(supervisor);
    until("its end", || !is_alive(supervisor));
    // Who finds it dead on the list has, too.
    assert_eq!(pool.ready(), 0);
    until("a new standby", || pool.ready() == 1);
}

#[test]
fn a_standby_whose_machine_was_killed_has_another_take_its_place() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "unlucky", &["--size", "1", BUSYBOX]);
    let [supervisor] = pool.standbys()[..] else {
        panic!("{:?}", pool.standbys())
    };
    kill(child_of(supervisor));
    // Nobody else looks: neither a run nor a list.
    until(
        "another",
        || matches!(pool.standbys()[..], [other] if other != supervisor),
    );
    until("a new standby", || pool.ready() == 1);
}

#[test]
fn a_standby_that_does_not_answer_holds_nothing_up_and_is_replaced() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "hung", &["--size", "1", BUSYBOX]);
    for machine in [false, true] {
        let [supervisor] = pool.standbys()[..] else {
            panic!("{:?}", pool.standbys())
        };
        let hung = if machine {
            child_of(supervisor)
        } else {
            supervisor
        };
        freeze(hung);
        let args = [
            "run",
            "--timings",
            "--name",
            "one",
            BUSYBOX,
            "echo",
            "hello",
        ];
        let finished = coffer.run(args);
        assert_eq!((finished.code, finished.text().as_str()), (0, "hello"));
        let silent = |line: &str| line.ends_with("standby did not answer");
        assert!(finished.stderr.lines().any(silent), "{}", finished.stderr);
        let reasons = coffer.inspect("one")["degraded"].to_string();
        assert!(reasons.contains("A standby did not answer"), "{reasons}");
        coffer.ok(["rm", "one"]);
        assert_eq!(coffer.ok(["ps", "-aq"]), "");
        until("the end of the hung standby", || {
            !is_alive(hung) && !is_alive(supervisor)
        });
        until("a new standby", || pool.ready() == 1);
    }
}

#[test]
fn a_pool_with_a_hung_standby_can_be_removed() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "stuck", &["--size", "2", BUSYBOX]);
    let standbys = pool.standbys();
    let machines: Vec<_> = standbys.iter().map(|pid| child_of(*pid)).collect();
    freeze(standbys[0]);
    assert_eq!(coffer.ok(["pool", "rm", "stuck"]), "stuck");
    until("the standbys' end", || {
        !standbys.iter().chain(&machines).any(|pid| is_alive(*pid))
    });
    assert!(coffer.entries("pools").is_empty());
}

/// The process that another one has started and waits for; proc_pid_children(5).
fn child_of(pid: i32) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks.map(|task| {
        let path = task.unwrap().path().join("children");
        std::fs::read_to_string(path).unwrap_or_default()
    });
    let children: String = children.collect();
    children.trim().parse().unwrap()
}

#[test]
fn the_image_of_a_pool_is_not_removed_before_the_pool() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "user", &["--size", "1", BUSYBOX]);
    let hint = "coffer pool rm user";
    coffer.refused(&["rmi", BUSYBOX], &["the pool `user`", hint]);
    assert!(run(&coffer, &[BUSYBOX, "true"]).1);
    drop(pool);
    coffer.ok(["rmi", BUSYBOX]);
}

#[test]
fn a_removed_pool_leaves_no_process_and_no_file() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "removed", &["--size", "2", BUSYBOX]);
    let standbys = pool.standbys();
    assert_eq!(standbys.len(), 2);
    assert_eq!(coffer.ok(["pool", "rm", "removed"]), "removed");
    until("the standbys' end", || {
        !standbys.iter().any(|pid| is_alive(*pid))
    });
    assert_eq!(
        coffer.json(["pool", "list", "--json"]),
        serde_json::json!([])
    );
    assert!(
        coffer.entries("pools").is_empty(),
        "{:?}",
        coffer.entries("pools")
    );
    coffer.refused(&["pool", "rm", "removed"], &["There is no pool `removed`"]);
}

#[test]
fn standbys_have_run_what_they_were_asked_to() {
    let coffer = Coffer::private();
    let warm = "echo warm > /warm";
    let pool = Pool::create(&coffer, "warm", &["--size", "1", BUSYBOX, "--exec", warm]);
    assert!(pool.info()["commands"].to_string().contains(warm));
    let (text, claimed) = run(&coffer, &[BUSYBOX, "cat", "/warm"]);
    assert_eq!((text.as_str(), claimed), ("warm", true));
}

/// What a workload can see of its machine's past.
const PAST: &str = "echo $$; set -- /proc/[0-9]*; echo $#; cat /proc/self/mounts; \
    find / -xdev 2> /dev/null | sort; ls -A /tmp /dev/shm /run; cat /sys/fs/cgroup/pids.current";

#[test]
fn what_a_standby_has_rehearsed_leaves_no_trace() {
    let coffer = Coffer::private();
    let pool = Pool::create(&coffer, "clean", &["--size", "1", BUSYBOX]);
    let (claimed, was_claimed) = run(&coffer, &[BUSYBOX, "sh", "-c", PAST]);
    assert!(was_claimed);
    drop(pool);
    let (fresh, was_claimed) = run(&coffer, &[BUSYBOX, "sh", "-c", PAST]);
    assert!(!was_claimed);
    assert_eq!(claimed, fresh);
}

#[test]
fn a_known_interpreter_is_warmed_and_one_that_fails_is_no_failure() {
    let coffer = Coffer::private();
    // Stands for an interpreter: fails, and would leave a file.
    let make = "printf '#!/bin/sh\\necho x > /trace\\necho $@ >&2\\nexit 3\\n' > /bin/python3; \
        chmod +x /bin/python3";
    let args = [
        "--size",
        "1",
        "--entrypoint",
        "python3",
        "--exec",
        make,
        BUSYBOX,
    ];
    let pool = Pool::create(&coffer, "snake", &args);
    let warm = "python3 -c pass";
    assert!(pool.info()["commands"].to_string().contains(warm));
    let log = coffer.home().join("pools/snake/standby.log");
    let log = std::fs::read_to_string(log).unwrap();
    for word in [warm, "ended with 3", "-c pass"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let (text, claimed) = run(
        &coffer,
        &[BUSYBOX, "sh", "-c", "ls /trace 2> /dev/null; echo no"],
    );
    assert_eq!((text.as_str(), claimed), ("no", true));
    // The sandbox that gets the next one says so.
    until("another standby", || pool.ready() == 1);
    coffer.ok(["run", "--name", "told", BUSYBOX, "true"]);
    let reasons = coffer.inspect("told")["degraded"].to_string();
    for word in [warm, "could not be run ahead", "ended with 3"] {
        assert!(reasons.contains(word), "{reasons}");
    }
    drop(pool);
    let args = [
        "--size",
        "1",
        "--no-warm",
        "--entrypoint",
        "python3",
        BUSYBOX,
    ];
    let pool = Pool::create(&coffer, "cold", &args);
    assert_eq!(pool.info()["commands"], serde_json::json!([]));
    assert!(run(&coffer, &[BUSYBOX, "true"]).1);
}

#[test]
fn an_automatic_standby_follows_the_image_that_ran_last_and_ends_by_itself() {
    let coffer = Coffer::private();
    let pools = || {
        coffer
            .json(["pool", "list", "--json"])
            .as_array()
            .unwrap()
            .clone()
    };
    let ready_of = |memory_mib: u64| {
        let pools = pools();
        pools.len() == 1 && pools[0]["memory_bytes"] == memory_mib << 20 && pools[0]["ready"] == 1
    };
    assert!(!run(&coffer, &[BUSYBOX, "true"]).1);
    assert!(pools().is_empty());
    assert_eq!(coffer.ok(["config", "get", "standby.auto"]), "off");
    coffer.ok(["config", "set", "standby.auto", "on"]);
    assert!(!run(&coffer, &[BUSYBOX, "true"]).1);
    until("an automatic standby", || ready_of(512));
    assert!(run(&coffer, &[BUSYBOX, "true"]).1);
    // Another shape takes the place, and what is too large gets none.
    assert!(!run(&coffer, &["-m", "256m", BUSYBOX, "true"]).1);
    until("the other standby", || ready_of(256));
    coffer.ok(["config", "set", "standby.memory", "128m"]);
    coffer.ok(["config", "set", "standby.seconds", "1"]);
    assert!(run(&coffer, &["-m", "256m", BUSYBOX, "true"]).1);
    coffer.ok(["config", "unset", "standby.memory"]);
    assert!(!run(&coffer, &["-m", "300m", BUSYBOX, "true"]).1);
    until("its end", || pools().is_empty());
    until("no files", || coffer.entries("pools").is_empty());
    coffer.refused(
        &["config", "set", "standby.auto", "maybe"],
        &["`maybe`", "`on` or `off`"],
    );
    coffer.refused(&["config", "get", "nope"], &["There is no setting `nope`"]);
    coffer.ok(["config", "unset", "standby.seconds"]);
    assert!(!run(&coffer, &[BUSYBOX, "true"]).1);
    until("an automatic standby", || ready_of(512));
    coffer.ok(["config", "unset", "standby.auto"]);
    assert_eq!(coffer.ok(["config", "get", "standby.auto"]), "off");
    // The last standby is used, and its pool goes.
    assert!(run(&coffer, &[BUSYBOX, "true"]).1);
    until("no pool", || pools().is_empty());
}

#[test]
fn a_pool_that_cannot_be_is_refused_and_leaves_nothing() {
    let coffer = Coffer::private();
    let create = |args: &[&str], words: &[&str]| {
        let all: Vec<_> = ["pool", "create"].iter().chain(args).copied().collect();
        coffer.refused(&all, words);
        assert!(
            coffer.entries("pools").is_empty(),
            "{:?}",
            coffer.entries("pools")
        );
    };
    create(&["--size", "0", BUSYBOX], &["`0` standbys"]);
    create(&["--size", "65", BUSYBOX], &["`65` standbys"]);
    create(&["--name", "../up", BUSYBOX], &["`../up` is not a name"]);
    create(&["--pull", "never", "no-such-image"], &["no-such-image"]);
    create(&["--tmpfs", "/t", BUSYBOX], &["tmpfs"]);
    create(
        &[BUSYBOX, "--exec", "echo why; exit 3"],
        &["ended with 3", "why"],
    );
    let pool = Pool::create(&coffer, "taken", &["--size", "1", BUSYBOX]);
    let again = ["pool", "create", "--name", "taken", BUSYBOX];
    coffer.refused(&again, &["The name `taken` is taken"]);
    assert_eq!(pool.ready(), 1);
}
