//! Create, start, stop, kill, restart, wait, rm, ps, logs, inspect, and what is left when
//! processes are killed: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::process::Stdio;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::{freeze, until},
};

fn inspect(coffer: &Coffer, id: &str) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&coffer.ok(["inspect", id])).unwrap()[0].clone()
}

fn status(coffer: &Coffer, id: &str) -> String {
    inspect(coffer, id)["status"].as_str().unwrap().to_owned()
}

#[test]
fn a_sandbox_is_created_started_stopped_and_started_again_with_its_disk() {
    let coffer = Coffer::shared();
    let script = "cat /kept 2>/dev/null; echo again >> /kept";
    let id = coffer.ok(["create", BUSYBOX, "sh", "-c", script]);
    assert_eq!(status(&coffer, &id), "created");
    assert_eq!(coffer.ok(["start", "-a", &id]), "");
    assert_eq!(status(&coffer, &id), "stopped");
    assert_eq!(coffer.ok(["start", "-a", &id]), "again");
    assert_eq!(coffer.ok(["logs", &id]), "again");
    coffer.ok(["rm", &id]);
    assert_ne!(coffer.run(["inspect", &id]).code, 0);
}

#[test]
fn stop_asks_by_the_stop_signal_and_then_insists() {
    let coffer = Coffer::shared();
    let polite = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";
    let id = coffer.ok(["run", "-d", BUSYBOX, "sh", "-c", polite]);
    coffer.ok(["logs", &id]);
    while coffer.ok(["logs", &id]).is_empty() {}
    coffer.ok(["stop", "-t", "60", &id]);
    assert_eq!(inspect(&coffer, &id)["exit_code"], 3);
    coffer.ok(["rm", &id]);

    let custom = "trap 'exit 4' USR1; echo up; while :; do sleep 0.1; done";
    let id = coffer.ok([
        "run",
        "-d",
        "--stop-signal",
        "USR1",
        BUSYBOX,
        "sh",
        "-c",
        custom,
    ]);
    while coffer.ok(["logs", &id]).is_empty() {}
    coffer.ok(["stop", "-t", "60", &id]);
    assert_eq!(inspect(&coffer, &id)["exit_code"], 4);
    coffer.ok(["rm", &id]);

    // PID 1 without a handler does not hear SIGTERM.
    let deaf = coffer.ok(["run", "-d", BUSYBOX, "sleep", "100000"]);
    coffer.ok(["stop", "-t", "1", &deaf]);
    assert_eq!(inspect(&coffer, &deaf)["exit_code"], 137);
    coffer.ok(["rm", &deaf]);
}

#[test]
fn kill_restart_and_wait_work_as_in_docker() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["run", "-d", BUSYBOX, "sleep", "100000"]);
    coffer.ok(["restart", "-t", "0", &id]);
    assert_eq!(status(&coffer, &id), "running");
    let waiter = coffer
        .command(["wait", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    coffer.ok(["kill", &id]);
    let waited = waiter.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&waited.stdout).trim(), "137");
    assert_eq!(coffer.ok(["wait", &id]), "137");
    assert_ne!(coffer.run(["kill", &id]).code, 0);
    coffer.ok(["rm", &id]);
}

#[test]
fn restarts_at_once_all_succeed_and_no_verb_beside_them_loses_its_supervisor() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&[BUSYBOX, "sleep", "100000"]);
    let spawn = |args: &[&str]| {
        let mut command = coffer.command(args.iter().copied().chain([sandbox.id.as_str()]));
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        piped.spawn().unwrap()
    };
    let restarts: Vec<_> = (0..3).map(|_| spawn(&["restart", "-t", "0"])).collect();
    for restart in restarts {
        let output = restart.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(status(&coffer, &sandbox.id), "running");
    let verbs = [
        &["restart", "-t", "0"][..],
        &["stop", "-t", "0"],
        &["start"],
    ];
    let others: Vec<_> = verbs.iter().map(|verb| spawn(verb)).collect();
    for other in others {
        let output = other.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let is_honest = !error.contains("hung up") && !error.contains("does not answer");
        assert!(output.status.success() || is_honest, "{error}");
    }
}

#[test]
fn a_store_that_was_moved_has_its_sandboxes_and_snapshots() {
    let coffer = Coffer::private();
    let running = coffer.ok(["run", "-d", BUSYBOX, "sleep", "100000"]);
    coffer.ok(["exec", &running, "sh", "-c", "echo kept > /kept"]);
    let snapshot = coffer.ok(["snapshot", "create", &running]);
    let stopped = coffer.ok(["create", BUSYBOX, "echo", "moved"]);
    let home = coffer.home().join("moved");
    std::fs::create_dir(&home).unwrap();
    for name in ["cache", "images", "sandboxes", "snapshots", "templates"] {
        std::fs::rename(coffer.home().join(name), home.join(name)).unwrap();
    }
    let there = |words: &[&str]| {
        let mut command = coffer.command(words);
        let done = command.env("COFFER_HOME", &home).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(there(&["start", "-a", &stopped]), "moved");
    // Its supervisor listens at the old place, and is found by its number.
    there(&["rm", "-f", &running]);
    assert_eq!(there(&["restore", &snapshot]), running);
    assert_eq!(there(&["exec", &running, "cat", "/kept"]), "kept");
    there(&["stop", "-t", "0", &running]);
    there(&["start", &running]);
    assert_eq!(there(&["exec", &running, "cat", "/kept"]), "kept");
    there(&["rm", "-f", &running, &stopped]);
}

#[test]
fn names_are_unique_and_found_by_prefix_too() {
    let coffer = Coffer::private();
    let id = coffer.ok([
        "create",
        "--name",
        "web",
        "--label",
        "tier=front",
        BUSYBOX,
        "true",
    ]);
    let taken = coffer.run(["create", "--name", "web", BUSYBOX, "true"]);
    assert_eq!(taken.code, 1, "{taken:?}");
    assert!(taken.stderr.contains("web"), "{taken:?}");
    assert_eq!(coffer.ok(["ps", "-aq", "--no-trunc"]), id);
    assert!(id.starts_with(&coffer.ok(["ps", "-aq"])));
    assert_eq!(coffer.ok(["ps", "-q"]), "");
    assert!(coffer.ok(["ps", "-a"]).contains("web"));
    let json: serde_json::Value = serde_json::from_str(&coffer.ok(["ps", "-a", "--json"])).unwrap();
    assert_eq!(json[0]["name"], "web");
    assert_eq!(
        coffer.ok(["ps", "-aq", "--filter", "label=tier=front", "--no-trunc"]),
        id
    );
    assert_eq!(coffer.ok(["ps", "-aq", "--filter", "name=nothing"]), "");
    assert_eq!(inspect(&coffer, &id[..6])["name"], "web");
    coffer.ok(["rm", "web"]);
}

#[test]
fn a_running_sandbox_is_removed_only_by_force() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["run", "-d", BUSYBOX, "sleep", "100000"]);
    let refused = coffer.run(["rm", &id]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("running"), "{refused:?}");
    coffer.ok(["rm", "-f", &id]);
    assert_ne!(coffer.run(["rm", &id]).code, 0);
}

#[test]
fn a_workload_that_ends_at_once_leaves_its_output_and_status() {
    let coffer = Coffer::shared();
    let id = coffer.ok([
        "run",
        "-d",
        BUSYBOX,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 6",
    ]);
    assert_eq!(coffer.ok(["wait", &id]), "6");
    let logs = coffer.run(["logs", &id]);
    assert_eq!(
        (logs.stdout.as_slice(), logs.stderr.as_str()),
        (&b"out\n"[..], "err\n")
    );
    coffer.ok(["rm", &id]);
}

#[test]
fn logs_follow_cut_and_stamp() {
    let coffer = Coffer::shared();
    let script =
        "for i in 1 2 3 4 5; do echo $i; done; while ! test -e /go; do sleep 0.05; done; echo 6";
    let id = coffer.ok(["run", "-d", BUSYBOX, "sh", "-c", script]);
    let follow = coffer
        .command(["logs", "-f", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while coffer.ok(["logs", &id]).lines().count() < 5 {}
    assert_eq!(coffer.ok(["logs", "--tail", "2", &id]), "4\n5");
    // Not waited for: the workload's end may take it along.
    coffer.ok(["exec", "-d", &id, "touch", "/go"]);
    let followed = follow.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&followed.stdout),
        "1\n2\n3\n4\n5\n6\n"
    );
    let stamped = coffer.ok(["logs", "-t", "--tail", "1", &id]);
    assert!(
        stamped.starts_with("20") && stamped.ends_with(" 6"),
        "{stamped}"
    );
    assert_eq!(
        coffer.ok(["logs", "--since", "2100-01-01T00:00:00Z", &id]),
        ""
    );
    coffer.ok(["rm", &id]);
}

/// Whether a process still has memory of its own: a zombie has none.
fn is_alive(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_killed_supervisor_takes_its_machine_along_and_is_noticed() {
    // Its own store: nobody else's command holds the sandbox while it puts its end on record.
    let coffer = Coffer::private();
    let id = coffer.ok(["run", "-d", BUSYBOX, "sleep", "100000"]);
    let info = inspect(&coffer, &id);
    let pid = |key: &str| i32::try_from(info[key].as_i64().unwrap()).unwrap();
    let (machine, supervisor) = (pid("machine_pid"), pid("supervisor_pid"));
    let process = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    while is_alive(machine) || is_alive(supervisor) {}
    // The kernel frees a dying process's locks a moment after its memory.
    while status(&coffer, &id) == "running" {}
    assert_eq!(status(&coffer, &id), "failed");
    coffer.ok(["start", &id]);
    assert_eq!(status(&coffer, &id), "running");
    coffer.ok(["rm", "-f", &id]);
}

#[test]
fn a_sandbox_whose_supervisor_is_stopped_is_removed_by_force() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["run", "-d", BUSYBOX, "sleep", "100000"]);
    let info = inspect(&coffer, &id);
    let pid = |key: &str| i32::try_from(info[key].as_i64().unwrap()).unwrap();
    let (machine, supervisor) = (pid("machine_pid"), pid("supervisor_pid"));
    let process = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    assert_eq!(coffer.ok(["rm", "-f", &id]), id);
    until("their end", || !is_alive(machine) && !is_alive(supervisor));
    assert_ne!(coffer.run(["inspect", &id]).code, 0);
}

#[test]
fn a_foreground_sandbox_outlives_its_client_unless_it_is_to_end_with_it() {
    let coffer = Coffer::private();
    let kill_client = |words: &[&str]| {
        let mut child = coffer
            .command(words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let script = "echo up; sleep 100000";
    let tied = "run --kill-with-client --name tied".split(' ');
    let tied: Vec<&str> = tied.chain([BUSYBOX, "sh", "-c", script]).collect();
    kill_client(&tied);
    let done = coffer.run(["wait", "tied"]);
    assert_eq!(done.text(), "137", "{done:?}");
    // The reason differs from that of a sandbox that ran out of memory.
    assert_eq!(inspect(&coffer, "tied")["ended_by"], "client_gone");
    coffer.ok(["rm", "tied"]);

    // As in Docker; and `--rm` is carried out when it ends.
    kill_client(&["run", "--rm", "--name", "free", BUSYBOX, "sh", "-c", script]);
    coffer.ok(["exec", "free", "true"]);
    assert_eq!(status(&coffer, "free"), "running");
    coffer.ok(["stop", "-t", "0", "free"]);
    until("its removal", || coffer.ok(["ps", "-aq"]).is_empty());
}

/// The next status of a sandbox that is being started.
fn until_starting(coffer: &Coffer, id: &str) {
    until("its start", || status(coffer, id) != "created");
}

#[test]
fn verbs_wait_for_a_start_or_end_it_and_removal_by_force_wins() {
    let coffer = Coffer::shared();
    let script = "echo started; sleep 100000";
    let create = || coffer.ok(["create", BUSYBOX, "sh", "-c", script]);
    let start = |id: &str| {
        let mut command = coffer.command(["start", id]);
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    for verb in [
        &["exec", "ID", "echo", "hi"][..],
        &["pause", "ID"],
        &["start", "ID"],
        &["kill", "-s", "CONT", "ID"],
        &["snapshot", "create", "--disk", "ID"],
    ] {
        let id = create();
        let mut start = start(&id);
        until_starting(&coffer, &id);
        let words = verb
            .iter()
            .map(|word| if *word == "ID" { id.as_str() } else { word });
        let done = coffer.run(words);
        assert_eq!(done.code, 0, "{verb:?}: {done:?}");
        assert_eq!(start.wait().unwrap().code(), Some(0), "{verb:?}");
        if verb[0] == "snapshot" {
            coffer.ok(["snapshot", "rm", &done.text()]);
        }
        coffer.ok(["rm", "-f", &id]);
    }
    for verb in [&["stop"][..], &["kill"]] {
        let id = create();
        let start = start(&id);
        until_starting(&coffer, &id);
        let waiter = coffer
            .command(["wait", &id])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        coffer.ok(verb.iter().copied().chain([id.as_str()]));
        let started = start.wait_with_output().unwrap();
        let waited = waiter.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&waited.stdout),
            "137\n",
            "{waited:?}"
        );
        // Whether the start was over already is the host's to say.
        if started.status.code() != Some(0) {
            let text = String::from_utf8_lossy(&started.stderr).into_owned();
            assert!(text.contains("cancelled"), "{text}");
        }
        let info = inspect(&coffer, &id);
        assert_eq!(
            (info["status"].as_str(), info["exit_code"].as_u64()),
            (Some("stopped"), Some(137))
        );
        assert_eq!(info["ended_by"], verb[0]);
        coffer.ok(["rm", &id]);
    }
    for wait_for_status in [false, true] {
        let id = create();
        let start = start(&id);
        if wait_for_status {
            until_starting(&coffer, &id);
        }
        coffer.ok(["rm", "-f", &id]);
        let started = start.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(
            !text.contains("hung up") && !text.contains("os error"),
            "{text}"
        );
        assert_ne!(coffer.run(["inspect", &id]).code, 0);
        let processes = std::process::Command::new("pgrep")
            .args(["-f", &id])
            .output()
            .unwrap();
        assert!(processes.stdout.is_empty(), "{processes:?}");
    }
}

#[test]
fn a_start_whose_machine_is_stopped_says_so() {
    let coffer = Coffer::private();
    let workload = [BUSYBOX, "sh", "-c", "echo ready; exec sleep 1000"];
    let build = ["template", "build", "--wait-for", "ready", "--on-fork"];
    coffer.ok([&build[..], &["sleep 1000"], &workload].concat());
    let start = ["run", "-d", "--name", "held"];
    let done = std::thread::scope(|scope| {
        // The template's hook holds the start up.
        let run = scope.spawn(|| coffer.run(start.iter().chain(&workload)));
        let machine = || {
            let shown = coffer.run(["inspect", "-f", "{{.machine_pid}}", "held"]);
            shown.text().parse::<i32>().ok()
        };
        until("the machine", || machine().is_some());
        freeze(machine().unwrap());
        run.join().unwrap()
    });
    assert_eq!(done.code, 125, "{done:?}");
    let words = ["machine of sandbox `held` is stopped", "kill -CONT"];
    assert!(
        words.iter().all(|word| done.stderr.contains(word)),
        "{done:?}"
    );
    coffer.ok(["rm", "-f", "held"]);
}

#[test]
fn a_machine_that_is_stopped_is_not_waited_for_beyond_the_stop() {
    let coffer = Coffer::private();
    let sandbox = coffer.sleeper();
    freeze(sandbox.machine());
    assert_eq!(coffer.ok(["stop", "-t", "0", &sandbox.id]), sandbox.id);
    let info = inspect(&coffer, &sandbox.id);
    assert_eq!(
        (&info["status"], &info["exit_code"]),
        (&"stopped".into(), &137.into())
    );
    // Nobody has asked the machine what the start has touched.
    assert_eq!(info["degraded"], serde_json::Value::Null);
}

#[test]
fn a_supervisor_that_is_stopped_is_reported_and_many_sandboxes_stop_at_once() {
    let coffer = Coffer::shared();
    // None of them hears its stop signal.
    let sandboxes: Vec<_> = (0..3).map(|_| coffer.sleeper()).collect();
    let ids: Vec<&str> = sandboxes.iter().map(|one| one.id.as_str()).collect();
    let supervisor = rustix::process::Pid::from_raw(sandboxes[0].supervisor()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::STOP).unwrap();
    for verb in ["exec", "pause", "stop", "wait", "fork", "attach"] {
        let mut words = vec![verb];
        words.extend((verb == "attach").then_some("--no-stdin"));
        words.push(ids[0]);
        words.extend((verb == "exec").then_some("true"));
        let done = coffer.run(words);
        assert_ne!(done.code, 0, "{verb}");
        assert!(
            done.stderr.contains("is stopped (process") && done.stderr.contains("kill -CONT"),
            "{verb}: {done:?}"
        );
    }
    rustix::process::kill_process(supervisor, rustix::process::Signal::CONT).unwrap();
    // The same of a machine, where the guest has to answer.
    let machine = rustix::process::Pid::from_raw(sandboxes[1].machine()).unwrap();
    rustix::process::kill_process(machine, rustix::process::Signal::STOP).unwrap();
    let done = coffer.run(["exec", ids[1], "true"]);
    assert!(done.stderr.contains("machine of sandbox"), "{done:?}");
    rustix::process::kill_process(machine, rustix::process::Signal::CONT).unwrap();
    let stopped = coffer.ok(["stop", "-t", "1"].iter().chain(&ids));
    assert_eq!(stopped.lines().collect::<Vec<_>>(), ids);
    for id in &ids {
        assert_eq!(status(&coffer, id), "stopped");
    }
    let refused = coffer.run(["exec", ids[0], "true"]);
    assert!(refused.stderr.contains("is stopped"), "{refused:?}");
}

#[test]
fn two_starts_at_once_start_it_once() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["create", BUSYBOX, "sleep", "100000"]);
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| coffer.run(["start", &id]).code))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    assert!(codes.contains(&0), "{codes:?}");
    assert_eq!(status(&coffer, &id), "running");
    coffer.ok(["rm", "-f", &id]);
}

#[test]
fn doctor_info_version_and_completion_speak() {
    let coffer = Coffer::shared();
    let doctor: serde_json::Value = serde_json::from_str(&coffer.ok(["doctor", "--json"])).unwrap();
    assert!(
        doctor["backends"]
            .as_array()
            .unwrap()
            .iter()
            .any(|b| b["usable"] == true)
    );
    assert!(!coffer.ok(["doctor"]).is_empty());
    assert!(coffer.ok(["info"]).contains("qemu"));
    assert!(coffer.ok(["version"]).contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(coffer.ok(["completion", shell]).contains("coffer"));
    }
}

#[test]
fn a_backend_that_cannot_work_is_refused_at_once_with_the_reason() {
    let coffer = Coffer::shared();
    let doctor: serde_json::Value = serde_json::from_str(&coffer.ok(["doctor", "--json"])).unwrap();
    let kvm = doctor["backends"]
        .as_array()
        .unwrap()
        .iter()
        .find(|b| b["name"] == "qemu-kvm");
    if kvm.unwrap()["usable"] == true {
        // Every backend works here; elsewhere one does not.
        return;
    }
    let done = coffer.run(["run", "--rm", "--backend", "qemu-kvm", BUSYBOX, "true"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.stderr.contains("qemu-kvm"), "{done:?}");
    let unknown = coffer.run(["run", "--rm", "--backend", "nope", BUSYBOX, "true"]);
    assert!(unknown.stderr.contains("nope"), "{unknown:?}");
}
