//! The network of sandboxes: servers on the host's loopback, reached by an explicit rule, and
//! published ports. The real program, a real guest; nothing leaves this machine.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

#[path = "guest_program/mod.rs"]
mod guest_program;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    sandboxes::{own_place, until},
};
use serde_json::Value;

/// How long a socket of a test waits.
const LIMIT: Duration = Duration::from_secs(60);

/// A server on the host's loopback that sends what it received back, until each client's end.
fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut all = Vec::new();
            if stream.read_to_end(&mut all).is_ok() {
                let _ = stream.write_all(&all);
            }
        }
    });
    port
}

fn networked<'a>(coffer: &'a Coffer, flags: &[&str], script: &str) -> Sleeper<'a> {
    let args = ["--network", "default"].iter().chain(flags);
    let args: Vec<&str> = args
        .chain(&[BUSYBOX, "sh", "-c", script])
        .copied()
        .collect();
    coffer.detached(&args)
}

const IDLE: &str = "while :; do sleep 1000; done";

fn connect(place: &str) -> TcpStream {
    let stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Runs a `run` that must fail before anything starts, with a sentence that has `word`.
fn run_refused(coffer: &Coffer, args: &[&str], word: &str) {
    let all: Vec<&str> = ["run", "--rm"].iter().chain(args).copied().collect();
    let finished = coffer.run(&all);
    assert_eq!(finished.code, 125, "{args:?}: {finished:?}");
    assert!(finished.stderr.contains(word), "{args:?}: {finished:?}");
}

/// The one published place of a sandbox.
fn published(sandbox: &Sleeper<'_>) -> String {
    let port = &sandbox.inspect()["ports"][0]["host"];
    port.as_str().unwrap().to_owned()
}

/// Waits until the events of a sandbox's denials have the texts in them. The network's thread
/// reports a denial a moment after the guest has its answer.
fn until_denied(coffer: &Coffer, sandbox: &str, texts: &[&str]) {
    until(&format!("events of {texts:?}"), || {
        let denied = serde_json::to_string(&denials(coffer, sandbox)).unwrap();
        texts.iter().all(|text| denied.contains(text))
    });
}

fn denials(coffer: &Coffer, sandbox: &str) -> Vec<Value> {
    let text = coffer.ok([
        "events",
        "--json",
        "--since",
        "0",
        "--until",
        "0s",
        "--filter",
        &format!("sandbox={sandbox}"),
        "--filter",
        "type=network_denied",
    ]);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn without_a_network_there_is_no_interface() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--network", "none", BUSYBOX, "sh", "-c", IDLE]);
    assert_eq!(sandbox.sh("ls /sys/class/net"), "lo");
    let sandbox = coffer.detached(&[BUSYBOX, "sh", "-c", IDLE]);
    assert_eq!(sandbox.sh("ls /sys/class/net"), "eth0\nlo");
    let args = ["--network", "none", "-p", "80", BUSYBOX, "true"];
    run_refused(&coffer, &args, "no network");
}

#[test]
fn a_server_of_the_host_is_reached_by_a_rule_and_by_nothing_else() {
    let coffer = Coffer::shared();
    let (open, closed) = (echo_server(), echo_server());
    let rule = format!("host:{open}");
    let sandbox = networked(&coffer, &["--allow", &rule], IDLE);
    let through = |port: u16| {
        let script = format!("echo hello | nc -w 20 host.coffer.internal {port} 2>&1; true");
        sandbox.sh(&script)
    };
    assert_eq!(through(open), "hello");
    assert_ne!(through(closed), "hello");
    // Each byte, both ways.
    let script = format!(
        "head -c 3000000 /dev/urandom > /tmp/sent; \
         nc host.coffer.internal {open} < /tmp/sent > /tmp/got; cmp /tmp/sent /tmp/got && echo same"
    );
    assert_eq!(sandbox.sh(&script), "same");
    let allow = format!("\"allow\":\"host:{closed}/tcp\"");
    until_denied(&coffer, &sandbox.id, &[&allow]);
}

#[test]
fn addresses_that_are_not_public_are_refused_at_once_and_reported() {
    let coffer = Coffer::shared();
    let sandbox = networked(&coffer, &[], IDLE);
    for address in ["10.1.2.3", "169.254.169.254", "192.168.1.1"] {
        let script = format!("nc -w 20 {address} 80 < /dev/null; echo $?");
        assert_ne!(sandbox.sh(&script), "0", "{address}");
    }
    let destinations = [
        "10.1.2.3:80/tcp",
        "169.254.169.254:80/tcp",
        "192.168.1.1:80/tcp",
    ];
    until_denied(&coffer, &sandbox.id, &destinations);
}

#[test]
fn servers_on_the_addresses_of_this_machine_are_not_reached() {
    let coffer = Coffer::shared();
    let sandbox = networked(&coffer, &["--network-profile", "all"], IDLE);
    let addresses = host_addresses();
    assert!(!addresses.is_empty(), "this machine has no address");
    for address in addresses {
        let listener = TcpListener::bind((address.as_str(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!("nc -w 20 {address} {port} < /dev/null; echo $?");
        assert_ne!(sandbox.sh(&script), "0", "{address}");
        let destination = format!("{address}:{port}/tcp");
        until_denied(&coffer, &sandbox.id, &[&destination]);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "{address} was connected to");
    }
}

#[test]
fn a_port_is_free_when_the_end_of_its_sandbox_is_reported() {
    let coffer = Coffer::shared();
    let port = format!("{}:80", own_place());
    for _ in 0..5 {
        coffer.ok(["run", "--rm", "-p", &port, BUSYBOX, "true"]);
    }
}

/// Addresses of this machine that are not on its loopback.
fn host_addresses() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut found = Vec::new();
    let mut last = "";
    for line in text.lines() {
        if line.contains("/32 host LOCAL") {
            found.push(last.to_owned());
        }
        last = line.trim_start_matches([' ', '|', '-']);
    }
    found.retain(|address| !address.starts_with("127."));
    found.sort();
    found.dedup();
    found
}

#[test]
fn a_published_port_leads_to_a_server_in_the_sandbox() {
    let coffer = Coffer::shared();
    let server = "nc -ll -p 8080 -e echo served";
    let sandbox = networked(&coffer, &["-p", "8080"], server);
    let place = published(&sandbox);
    assert!(place.starts_with("127.0.0.1:"), "{place}");
    assert_eq!(
        coffer.ok(["port", &sandbox.id]),
        format!("8080/tcp -> {place}")
    );
    assert_eq!(coffer.ok(["port", &sandbox.id, "8080"]), place);
    coffer.refused(&["port", &sandbox.id, "81"], &["81/tcp"]);
    assert!(
        coffer
            .ok(["ps", "--filter", &format!("id={}", sandbox.id)])
            .contains(&place)
    );
    // Until the server listens the peer gets a reset.
    until("answer of the server", || {
        let mut answer = String::new();
        connect(&place).read_to_string(&mut answer).is_ok() && answer == "served\n"
    });
    // The port is taken as long as the sandbox runs.
    let taken = format!("{place}:80");
    run_refused(&coffer, &["-p", &taken, BUSYBOX, "true"], &place);
    coffer.ok(["stop", "-t", "0", &sandbox.id]);
    assert!(sandbox.inspect().get("ports").is_none());
}

/// Sends each datagram back to its sender.
const UDP_ECHO: &str = r#"
fn main() {
    let socket = std::net::UdpSocket::bind("[::]:5353").unwrap();
    let mut buffer = [0; 2048];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], sender).unwrap();
    }
}
"#;

#[test]
fn a_published_udp_port_works_both_ways() {
    let coffer = Coffer::shared();
    let sandbox = networked(&coffer, &["-p", "5353/udp"], IDLE);
    let script = "cat > /tmp/echo && chmod 755 /tmp/echo";
    let put = ["exec", "-i", &sandbox.id, "sh", "-c", script];
    let put = coffer.run_with_input(put, &guest_program::compile(UDP_ECHO));
    assert_eq!(put.code, 0, "{put:?}");
    sandbox.send(&["/tmp/echo"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket.connect(published(&sandbox)).unwrap();
    let mut answer = [0; 16];
    until("answer by UDP", || {
        // Refused as long as nobody listens in the sandbox.
        let _ = socket.send(b"ping");
        let received = socket.recv(&mut answer);
        received.is_ok_and(|length| &answer[..length] == b"ping")
    });
}

#[test]
fn a_fork_has_addresses_of_its_own_and_a_network_that_works() {
    let coffer = Coffer::shared();
    let port = echo_server();
    let rule = format!("host:{port}");
    let sandbox = networked(&coffer, &["--allow", &rule, "-p", "8080"], IDLE);
    let address = "ip -o -4 addr show eth0 | tr -s ' ' | cut -d ' ' -f 4";
    let before = sandbox.sh(address);
    let fork = sandbox.fork(&[]);
    assert_eq!(sandbox.sh(address), before);
    assert_ne!(fork.sh(address), before);
    let say = format!("echo hello | nc -w 20 host.coffer.internal {port}");
    assert_eq!(fork.sh(&say), "hello");
    assert_eq!(sandbox.sh(&say), "hello");
    // The port of the host stays the parent's.
    assert!(fork.inspect().get("ports").is_none());

    let snapshot = coffer.ok(["snapshot", "create", &sandbox.id]);
    coffer.ok(["stop", "-t", "0", &sandbox.id]);
    coffer.ok(["restore", &snapshot]);
    assert_eq!(sandbox.sh(address), before);
    assert_eq!(sandbox.sh(&say), "hello");
    coffer.ok(["snapshot", "rm", &snapshot]);
}

#[test]
fn an_imported_snapshot_brings_an_interface_and_no_policy() {
    let coffer = Coffer::shared();
    let flags = [
        "--allow",
        "host:1",
        "-p",
        "8080",
        "--dns-search",
        "example.com",
    ];
    let sandbox = networked(&coffer, &flags, IDLE);
    let snapshot = coffer.ok(["snapshot", "create", "--disk", &sandbox.id]);
    let network = |coffer: &Coffer, snapshot: &str| {
        let all = coffer.json(["snapshot", "inspect", snapshot]);
        let one = if all.is_array() { all[0].clone() } else { all };
        one["manifest"]["sandbox"]["spec"]["network"].clone()
    };
    assert_eq!(network(&coffer, &snapshot)["rules"][0], "allow host:1");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    coffer.ok([
        "snapshot",
        "export",
        "-o",
        file.to_str().unwrap(),
        &snapshot,
    ]);
    let other = Coffer::private();
    other.ok(["snapshot", "import", "-i", file.to_str().unwrap()]);
    let expected = serde_json::json!({"mode": "default"});
    assert_eq!(network(&other, &snapshot), expected);
    coffer.ok(["snapshot", "rm", &snapshot]);
}

#[test]
fn a_standby_takes_its_network_at_the_claim() {
    let coffer = Coffer::private();
    let port = echo_server();
    let rule = format!("host:{port}");
    coffer.ok([
        "pool",
        "create",
        "--name",
        "net",
        "--size",
        "1",
        "--network",
        "default",
        BUSYBOX,
    ]);
    let script = format!("echo hello | nc -w 20 host.coffer.internal {port}; sleep 1000");
    let args = [
        "--timings",
        "run",
        "-d",
        "--allow",
        &rule,
        BUSYBOX,
        "sh",
        "-c",
        &script,
    ];
    let run = coffer.run(args);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("standby"), "{run:?}");
    let sandbox = coffer.keep(run.text());
    until("greeting", || coffer.ok(["logs", &sandbox.id]) == "hello");
    coffer.ok(["pool", "rm", "net"]);
}

#[test]
fn a_name_that_no_resolver_knows_is_an_error_and_names_of_the_spec_are_found() {
    let coffer = Coffer::shared();
    let flags = [
        "--dns",
        "127.0.0.1",
        "--add-host",
        "db:192.0.2.7",
        "--dns-search",
        "example.com",
    ];
    let sandbox = networked(&coffer, &flags, IDLE);
    assert!(
        sandbox
            .sh("cat /etc/resolv.conf")
            .contains("search example.com")
    );
    assert!(sandbox.sh("cat /etc/hosts").contains("192.0.2.7\tdb"));
    assert_ne!(
        sandbox.sh("nslookup nowhere.invalid > /dev/null 2>&1; echo $?"),
        "0"
    );
}

#[test]
fn what_a_network_carried_is_in_the_statistics() {
    let coffer = Coffer::shared();
    let port = echo_server();
    let sandbox = networked(&coffer, &["--allow", &format!("host:{port}")], IDLE);
    let script = format!("head -c 100000 /dev/zero | nc host.coffer.internal {port} | wc -c");
    assert_eq!(sandbox.sh(&script), "100000");
    let stats = coffer.json(["stats", "--no-stream", "--json", &sandbox.id]);
    let stats = if stats.is_array() {
        stats[0].clone()
    } else {
        stats
    };
    for way in ["sent_bytes", "received_bytes"] {
        assert!(stats["network"][way].as_u64().unwrap() > 100_000, "{stats}");
    }
}

#[test]
fn rules_that_cannot_be_read_are_refused_by_their_text() {
    let coffer = Coffer::shared();
    for (flag, value) in [
        ("--allow", "example.com:http"),
        ("--deny", "1.2.3.4/40"),
        ("--network-profile", "private"),
        ("-p", "80:90:100:110"),
        ("--dns-search", "a b"),
    ] {
        let part = value.rsplit(['/', ':']).next().unwrap();
        run_refused(&coffer, &[flag, value, BUSYBOX, "true"], part);
    }
}
