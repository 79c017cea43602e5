//! `coffer net`: the policy, the ports and the sight of a network while it runs. The real program, a
//! real guest; nothing leaves this machine.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    sandboxes::{own_place, unique_name, until},
};
use serde_json::Value;

/// How long a socket of a test waits.
const LIMIT: Duration = Duration::from_secs(60);

const IDLE: &str = "while :; do sleep 1000; done";

/// It listens without a gap: a loop of one-shot servers refuses between two of them.
const SERVER: &str = "nc -ll -p 8080 -e echo served";

fn networked<'a>(coffer: &'a Coffer, flags: &[&str], script: &str) -> Sleeper<'a> {
    let args = ["--network", "default"].iter().chain(flags);
    let args: Vec<&str> = args
        .chain(&[BUSYBOX, "sh", "-c", script])
        .copied()
        .collect();
    coffer.detached(&args)
}

fn net(coffer: &Coffer, flags: &[&str], sandbox: &str) -> Value {
    let last = [sandbox];
    let args = ["net", "--json"].iter().chain(flags).chain(&last);
    coffer.json(args.copied().collect::<Vec<_>>())
}

fn place(port: &Value) -> String {
    port["host"].as_str().unwrap().to_owned()
}

fn served(place: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(place) else {
        return false;
    };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).is_ok() && answer == "served\n"
}

#[test]
fn a_denial_that_comes_later_ends_the_flow_that_runs() {
    let coffer = Coffer::shared();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rule = format!("host:{port}");
    let sandbox = networked(&coffer, &["--allow", &rule], IDLE);
    let client = format!("nc host.coffer.internal {port} < /dev/zero > /dev/null");
    sandbox.send(&["sh", "-c", &client]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();

    let seen = net(&coffer, &[], &sandbox.id);
    let flow = &seen["flows"][0];
    assert_eq!(flow["established"], true, "{seen}");
    assert_eq!(flow["inbound"], false, "{seen}");
    assert!(
        flow["remote"]
            .as_str()
            .unwrap()
            .ends_with(&port.to_string())
    );
    let text = coffer.ok(["net", &sandbox.id]);
    for part in [
        "Profile: public",
        &format!("allow {rule}"),
        "established",
        "198.18.0.1",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }

    // Rules come before those that are there, in the order of the command line.
    let flags = ["--deny", &rule, "--allow", "192.0.2.7:80"];
    let changed = net(&coffer, &flags, &sandbox.id);
    assert_eq!(changed["ended_flows"], 1, "{changed}");
    let rules = [
        &format!("deny {rule}"),
        "allow 192.0.2.7:80",
        &format!("allow {rule}"),
    ];
    assert_eq!(changed["rules"], serde_json::json!(rules));
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_err(), "it was not reset");
    // The denial is seen with the rule that allows it, as soon as the network's thread has told it.
    until("the denial", || {
        let seen = net(&coffer, &[], &sandbox.id);
        let denied = &seen["denials"][0];
        let reason = denied["reason"].as_str().unwrap_or_default();
        reason.contains("deny host") && denied["allow"] == format!("host:{port}/tcp")
    });
    // The record has it, and so has the next start.
    let spec = &sandbox.inspect()["spec"]["network"]["rules"];
    assert_eq!(*spec, serde_json::json!(rules));
    let filter = format!("sandbox={}", sandbox.id);
    let events = coffer.ok([
        "events",
        "--json",
        "--since",
        "0",
        "--until",
        "0s",
        "--filter",
        &filter,
        "--filter",
        "type=network_changed",
    ]);
    assert!(events.contains("new rule `deny host"), "{events}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy");
    std::fs::write(&file, format!("profile none\nallow {rule}\n")).unwrap();
    let replaced = net(&coffer, &["--policy", file.to_str().unwrap()], &sandbox.id);
    assert_eq!(
        replaced["rules"],
        serde_json::json!([format!("allow {rule}")])
    );
    assert_eq!(replaced["profile"], "none");
    let say = format!("echo hello | nc -w 20 host.coffer.internal {port}");
    sandbox.send(&["sh", "-c", &say]);
    let (mut again, _) = listener.accept().unwrap();
    again.set_read_timeout(Some(LIMIT)).unwrap();
    again.read_exact(&mut [0; 5]).unwrap();
    coffer.refused(&["net", "--allow", "a:b:c", &sandbox.id], &["a:b:c"]);
}

#[test]
fn ports_change_while_a_sandbox_runs_and_the_next_start_has_them() {
    let coffer = Coffer::shared();
    let sandbox = networked(&coffer, &["-p", "81"], SERVER);
    let fixed = own_place().to_string();
    let changed = net(
        &coffer,
        &["-p", &format!("{fixed}:8080"), "--unpublish", "81"],
        &sandbox.id,
    );
    assert_eq!(changed["ports"].as_array().unwrap().len(), 1, "{changed}");
    assert_eq!(place(&changed["ports"][0]), fixed);
    until("answer of the server", || served(&fixed));
    assert_eq!(
        coffer.ok(["port", &sandbox.id]),
        format!("8080/tcp -> {fixed}")
    );
    let filter = format!("id={}", sandbox.id);
    assert!(coffer.ok(["ps", "--filter", &filter]).contains(&fixed));
    // A taken port changes nothing, also not the rules that come with it.
    let taken = format!("{fixed}:9");
    let flags = ["net", "-p", "82", "-p", &taken, "--deny", "*", &sandbox.id];
    coffer.refused(&flags, &[&fixed]);
    let after = net(&coffer, &[], &sandbox.id);
    assert_eq!(after["ports"], changed["ports"]);
    assert_eq!(after["rules"], serde_json::json!([]));
    coffer.refused(&["net", "--unpublish", "81", &sandbox.id], &["81/tcp"]);

    coffer.ok(["stop", "-t", "0", &sandbox.id]);
    assert!(TcpStream::connect(&fixed).is_err());
    // The changes of a sandbox that does not run are for its next start.
    let stopped = net(&coffer, &["--network-profile", "none"], &sandbox.id);
    assert_eq!(stopped["profile"], "none");
    coffer.ok(["start", &sandbox.id]);
    until("answer after the start", || served(&fixed));
    assert_eq!(net(&coffer, &[], &sandbox.id)["profile"], "none");
}

#[test]
fn a_taken_port_leaves_nothing_of_a_run_and_a_sandbox_as_it_was() {
    let coffer = Coffer::shared();
    let listener = TcpListener::bind(own_place()).unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let (port, name) = (format!("{place}:80"), unique_name("taken"));
    let run = coffer.run(["run", "-d", "--name", &name, "-p", &port, BUSYBOX, "true"]);
    assert_eq!(run.code, 125, "{run:?}");
    assert!(run.stderr.contains(&place), "{run:?}");
    coffer.refused(&["inspect", &name], &[&name]);

    let id = coffer.ok(["create", "-p", &port, BUSYBOX, "true"]);
    let sandbox = coffer.keep(id);
    coffer.refused(&["start", &sandbox.id], &[&place]);
    assert_eq!(sandbox.inspect()["status"], "created");
    drop(listener);
    coffer.ok(["start", "-a", &sandbox.id]);
}

#[test]
fn a_fork_publishes_ports_of_its_own() {
    let coffer = Coffer::shared();
    let sandbox = networked(&coffer, &["-p", "8080"], SERVER);
    let refused = ["fork", "-c", "2", "-p", "9000:8080", &sandbox.id];
    coffer.refused(&refused, &["9000", "2 forks"]);
    let fork = sandbox.fork(&["-p", "8080"]);
    let places = [&sandbox, &fork].map(|one| place(&one.inspect()["ports"][0]));
    assert_ne!(places[0], places[1]);
    for place in places {
        until("answer of the server", || served(&place));
    }
}

#[test]
fn a_live_connection_to_a_published_port_is_use() {
    let coffer = Coffer::shared();
    let script = "while :; do nc -l -p 8080 > /dev/null; done";
    let sandbox = networked(&coffer, &["-p", "8080", "--idle-timeout", "8s"], script);
    let place = place(&sandbox.inspect()["ports"][0]);
    until("server in the guest", || {
        sandbox.sh("netstat -ltn").contains(":8080")
    });
    let mut stream = TcpStream::connect(&place).unwrap();
    let begin = std::time::Instant::now();
    // Idle for longer than the limit but for the connection; each byte proves that it lives.
    while begin.elapsed() < Duration::from_secs(12) {
        // Time, on purpose: the limit is a time.
        std::thread::sleep(Duration::from_millis(500));
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(sandbox.inspect()["status"], "running");
    drop(stream);
    until("end by the idle limit", || {
        sandbox.inspect()["status"] != "running"
    });
}

/// The names of the supervisor's threads that have a system-call filter.
fn filtered_threads(supervisor: &Value) -> Vec<String> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{supervisor}/task")) else {
        return Vec::new();
    };
    let filtered = |thread: std::io::Result<std::fs::DirEntry>| {
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            value.map(str::trim).map(str::to_owned)
        };
        (field("Seccomp:")? == "2")
            .then(|| field("Name:"))
            .flatten()
    };
    let mut names: Vec<String> = threads.filter_map(filtered).collect();
    names.sort();
    names
}

#[test]
fn flags_of_the_network_are_kept_and_a_capture_is_written() {
    let coffer = Coffer::shared();
    let dir = tempfile::tempdir().unwrap();
    let (policy, capture) = (dir.path().join("policy"), dir.path().join("frames.pcap"));
    std::fs::write(&policy, "# ours\nprofile none\nallow 192.0.2.9:80\n").unwrap();
    let flags = [
        "--policy",
        policy.to_str().unwrap(),
        "--deny",
        "192.0.2.1",
        "--rate-up",
        "1m",
        "--mac-address",
        "02:00:5e:10:00:01",
        "--net-capture",
        capture.to_str().unwrap(),
        "--secret",
        "TOKEN=value:api.test.org",
    ];
    let sandbox = networked(&coffer, &flags, IDLE);
    // The proxy of the secrets reads the trust store first.
    until("filters of the network's threads", || {
        let filtered = filtered_threads(&sandbox.inspect()["supervisor_pid"]);
        filtered == ["net", "net-capture", "secrets"]
    });
    let mac = sandbox.sh("cat /sys/class/net/eth0/address");
    assert_eq!(mac, "02:00:5e:10:00:01");
    sandbox.sh("ping -c 1 -W 5 198.18.0.1");
    let seen = net(&coffer, &[], &sandbox.id);
    assert_eq!(seen["mac"], mac);
    assert_eq!(seen["profile"], "none");
    assert_eq!(
        seen["rules"],
        serde_json::json!(["deny 192.0.2.1", "allow 192.0.2.9:80"])
    );
    assert_eq!(
        net(&coffer, &["--rate-up", "0"], &sandbox.id)["rate_up"],
        Value::Null
    );
    coffer.ok(["stop", "-t", "0", &sandbox.id]);
    let bytes = std::fs::read(&capture).unwrap();
    // The head of the format and at least the ARP and echo frames.
    assert!(bytes.len() > 200, "{} bytes", bytes.len());

    std::fs::write(&policy, "allow 192.0.2.9:80\nallow nothing:here\n").unwrap();
    let refused = coffer.run([
        "run",
        "--rm",
        "--policy",
        policy.to_str().unwrap(),
        BUSYBOX,
        "true",
    ]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("line 2"), "{refused:?}");
}

#[test]
fn a_secret_without_a_value_leaves_no_sandbox() {
    let coffer = Coffer::shared();
    let name = "without-a-value";
    let secret = "TOKEN=@/no/such/file:api.test.org";
    let args = ["run", "--rm", "--name", name, "--secret", secret];
    let refused = coffer.run(args.iter().chain(&[BUSYBOX, "true"]));
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.stderr.contains("/no/such/file"), "{refused:?}");
    let missing = coffer.run(["inspect", name]);
    assert_ne!(missing.code, 0, "{missing:?}");
}
