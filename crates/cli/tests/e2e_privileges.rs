//! What a workload may do, and the init: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::until,
};

/// The bounding set of capabilities, which no process of a sandbox can pass.
const BOUNDING: &str = "awk '/^CapBnd/ {print $2}' /proc/self/status";

/// Numbers of processes that have ended and that nobody has reaped.
const ZOMBIES: &str = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";

#[test]
fn a_workload_may_do_what_its_flags_leave_it_and_so_may_its_execs() {
    let coffer = Coffer::shared();
    let flags = [
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "--cap-add=cap_net_raw",
        "--group-add",
        "777",
        "--security-opt",
        "no-new-privileges",
        "--tmpfs",
        "/mine:uid=1000,gid=7",
        "--memory-swap",
        "-1",
        "--log-driver",
        "json-file",
    ];
    let script = format!(
        "{BOUNDING}; awk '/^CapEff/ {{print $2}} /^NoNewPrivs/ {{print $2}}' /proc/self/status; \
         id -G; stat -c %u:%g /mine; sleep 1000000"
    );
    let args: Vec<&str> = flags
        .into_iter()
        .chain([BUSYBOX, "sh", "-c", &script])
        .collect();
    let sandbox = coffer.detached(&args);
    let expected = "0000000000002001\n0000000000002001\n1\n0 777\n1000:7";
    until("what the workload may", || {
        coffer.ok(["logs", &sandbox.id]).lines().count() == 5
    });
    assert_eq!(coffer.ok(["logs", &sandbox.id]), expected);
    assert_eq!(sandbox.sh(BOUNDING), "0000000000002001");
    assert_eq!(sandbox.sh("id -G"), "0 777");
    // What needs a capability that is gone fails.
    assert_ne!(sandbox.exec(&["mknod", "/node", "c", "1", "3"]).code, 0);
    let all = coffer.ok(["exec", "--privileged", &sandbox.id, "sh", "-c", BOUNDING]);
    assert_eq!(all, "000001ffffffffff");
    let unknown = coffer.run(["run", "--rm", "--group-add", "nope", BUSYBOX, "true"]);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.stderr.contains("`nope`"), "{unknown:?}");
}

#[test]
fn without_flags_and_with_privileged_root_has_every_capability() {
    let coffer = Coffer::shared();
    for flags in [
        &["--rm"][..],
        &["--rm", "--privileged", "--cap-drop", "ALL"],
    ] {
        let run = ["run"]
            .iter()
            .chain(flags)
            .chain(&[BUSYBOX, "sh", "-c", BOUNDING]);
        assert_eq!(coffer.ok(run), "000001ffffffffff", "{flags:?}");
    }
}

#[test]
fn an_init_reaps_hands_signals_on_and_ends_as_its_workload() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--init", BUSYBOX, "sleep", "1000000"]);
    // It takes its name and starts its child after it has started itself.
    until("the init", || {
        sandbox.sh("cat /proc/1/comm") == "coffer-init"
    });
    until("the workload", || {
        !sandbox.sh("pidof sleep || true").is_empty()
    });
    sandbox.sh("for i in 1 2 3; do (sleep 0 &); done");
    until("no zombie", || sandbox.sh(ZOMBIES) == "0");
    // A process 1 without a handler would not hear it.
    coffer.ok(["kill", "-s", "TERM", &sandbox.id]);
    assert_eq!(coffer.ok(["wait", &sandbox.id]), "143");

    let run = |command: &[&str]| {
        let flags = ["run", "--rm", "--init", "-u", "7", BUSYBOX];
        coffer.run(flags.iter().chain(command))
    };
    let done = run(&["sh", "-c", "id -u; exit 9"]);
    assert_eq!((done.code, done.text().as_str()), (9, "7"), "{done:?}");
    assert_eq!(run(&["no-such-program"]).code, 127);
    assert_eq!(run(&["/etc"]).code, 126);
}

#[test]
fn an_init_lets_its_workload_have_the_terminal() {
    let coffer = Coffer::shared();
    let run = [
        "run",
        "--rm",
        "--init",
        "-t",
        BUSYBOX,
        "sh",
        "-c",
        "stty size > /dev/null && echo ok",
    ];
    assert_eq!(coffer.ok(run), "ok");
}
