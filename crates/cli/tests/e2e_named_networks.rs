//! Named networks: sandboxes that reach each other, and those that do not. The real program and
//! real guests; nothing leaves this machine.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

#[path = "guest_program/mod.rs"]
mod guest_program;

use std::sync::atomic::{AtomicU32, Ordering};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    sandboxes::{kill, unique_name, until},
};

const IDLE: &str = "while :; do sleep 1000; done";

/// Answers each connection to port 80 with `served`.
/// It listens without a gap: a loop of one-shot servers refuses between two of them.
const SERVER: &str = "nc -ll -p 80 -e echo served";

/// Without an argument: sends each datagram to port 5353 back. With a place: sends a datagram there
/// until the answer comes, and prints it.
const UDP: &str = r#"
fn main() {
    let mut buffer = [0; 2048];
    let Some(place) = std::env::args().nth(1) else {
        let socket = std::net::UdpSocket::bind("[::]:5353").unwrap();
        loop {
            let (length, sender) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], sender).unwrap();
        }
    };
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    for _ in 0..100 {
        let _ = socket.send_to(b"heard", &place);
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return println!("{}", String::from_utf8_lossy(&buffer[..length]));
        }
    }
}
"#;

/// Puts the program of [`UDP`] into a sandbox.
fn put_udp(coffer: &Coffer, sandbox: &Sleeper<'_>, program: &[u8]) {
    let script = "cat > /tmp/udp && chmod 755 /tmp/udp";
    let put = ["exec", "-i", &sandbox.id, "sh", "-c", script];
    let put = coffer.run_with_input(put, program);
    assert_eq!(put.code, 0, "{put:?}");
}

/// A name that no other call gets.
fn unique(of: &str) -> String {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    unique_name(&format!("{of}{call}"))
}

/// A network that goes with the test.
struct Network<'a> {
    coffer: &'a Coffer,
    name: String,
}

impl<'a> Network<'a> {
    fn new(coffer: &'a Coffer, flags: &[&str]) -> Self {
        let name = unique("lan");
        let args = ["network", "create"].iter().chain(flags);
        coffer.ok(args.copied().chain([name.as_str()]));
        Self { coffer, name }
    }

    /// A sandbox on it.
    fn sandbox(&self, name: &str, flags: &[&str], script: &str) -> Sleeper<'a> {
        let args = ["--name", name, "--network", &self.name];
        let args = args.iter().chain(flags);
        let args: Vec<&str> = args
            .chain(&[BUSYBOX, "sh", "-c", script])
            .copied()
            .collect();
        self.coffer.detached(&args)
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // Its sandboxes are gone by now.
        self.coffer.run(["network", "rm", &self.name]);
    }
}

/// What a sandbox reads from port 80 of another.
fn get(from: &Sleeper<'_>, host: &str) -> String {
    from.sh(&format!("nc -w 60 {host} 80 < /dev/null 2>&1; true"))
}

/// Waits until the server in a sandbox listens.
fn until_served(from: &Sleeper<'_>, host: &str) {
    until("answer of the server", || get(from, host) == "served");
}

/// The address of a sandbox on its first network.
fn address(sandbox: &Sleeper<'_>) -> String {
    let address = &sandbox.inspect()["networks"][0]["address"];
    address.as_str().unwrap().to_owned()
}

#[test]
fn sandboxes_reach_each_other_by_name_and_alias_and_others_do_not() {
    let coffer = Coffer::shared();
    let (lan, other) = (Network::new(&coffer, &[]), Network::new(&coffer, &[]));
    let (name, alias) = (unique("srv"), unique("db"));
    let server = lan.sandbox(&name, &["--network-alias", &alias], SERVER);
    let client = lan.sandbox(&unique("cli"), &[], IDLE);
    until_served(&client, &name);
    let long = format!("{name}.{}", lan.name);
    let (short, ip) = (&server.id[..12], address(&server));
    for host in [&alias, &long, short, &ip] {
        assert_eq!(get(&client, host), "served", "{host}");
    }
    assert!(client.sh(&format!("nslookup {ip}")).contains(&long));
    assert!(
        client
            .sh(&format!("ping -c 1 -W 60 {alias}"))
            .contains("1 packets received")
    );
    assert!(
        client
            .sh(&format!("ping -6 -c 1 -W 60 {name}"))
            .contains("1 packets received")
    );
    let program = guest_program::compile(UDP);
    [&server, &client]
        .into_iter()
        .for_each(|sandbox| put_udp(&coffer, sandbox, &program));
    server.send(&["/tmp/udp"]);
    assert_eq!(client.sh(&format!("/tmp/udp {ip}:5353")), "heard");
    // Byte by byte, both ways: what comes back is what went.
    let echo = "nc -l -p 81 -e cat";
    server.send(&["sh", "-c", echo]);
    let script = format!(
        "head -c 3000000 /dev/urandom > /tmp/sent; \
         nc {name} 81 < /tmp/sent > /tmp/got; cmp /tmp/sent /tmp/got && echo same"
    );
    until("echo of the bytes", || {
        client.sh(&format!("{script}; true")).ends_with("same")
    });
    // On another network, and on none.
    let stranger = other.sandbox(&unique("cli"), &[], IDLE);
    let nobody = coffer.detached(&["--network", "default", BUSYBOX, "sh", "-c", IDLE]);
    for from in [&stranger, &nobody] {
        for host in [&name, &ip] {
            assert_ne!(get(from, host), "served", "{host}");
        }
    }
}

#[test]
fn rules_and_an_internal_network_close_what_they_say() {
    let coffer = Coffer::shared();
    let lan = Network::new(&coffer, &["--internal"]);
    let name = unique("srv");
    let _server = lan.sandbox(&name, &[], SERVER);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = format!("host:{port}");
    let client = lan.sandbox(&unique("cli"), &["--allow", &open], IDLE);
    until_served(&client, &name);
    let script = format!("nc -w 5 host.coffer.internal {port} < /dev/null; echo $?");
    assert_ne!(client.sh(&script), "0");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "the internal network is open");
    let closed = lan.sandbox(&unique("cli"), &["--deny", &format!("{name}:80")], IDLE);
    assert_ne!(get(&closed, &name), "served");
    assert!(
        closed
            .sh(&format!("ping -c 1 -W 60 {name}"))
            .contains("1 packets received")
    );
    let rule = format!("deny {name}:80");
    // The network's thread writes it a moment later.
    until("event of the denial", || {
        let events = coffer.ok([
            "events",
            "--json",
            "--since",
            "0",
            "--until",
            "0s",
            "--filter",
            &format!("sandbox={}", closed.id),
            "--filter",
            "type=network_denied",
        ]);
        events.contains(&rule)
    });
}

#[test]
fn names_and_addresses_follow_the_life_of_a_sandbox() {
    let coffer = Coffer::shared();
    let lan = Network::new(&coffer, &["--label", "test=life"]);
    let name = unique("srv");
    let server = lan.sandbox(&name, &[], SERVER);
    let client = lan.sandbox(&unique("cli"), &[], IDLE);
    until_served(&client, &name);
    let before = address(&server);
    // While members run the network stays.
    coffer.refused(&["network", "rm", &lan.name], &["has a member that runs"]);
    // The supervisor is killed: no name, no connection.
    kill(server.supervisor());
    until("end of the name", || {
        !client
            .sh(&format!("nslookup {name}; true"))
            .contains(&before)
    });
    assert_ne!(get(&client, &before), "served");
    coffer.ok(["start", &server.id]);
    until_served(&client, &name);
    assert_eq!(address(&server), before);
    // A fork has an address of its own, and both answer.
    let fork = server.fork(&[]);
    let own = address(&fork);
    assert_ne!(own, before);
    until_served(&client, &own);
    until_served(&client, &before);
    coffer.ok(["stop", "-t", "0", &fork.id]);
    // A snapshot comes back with its address.
    let snapshot = coffer.ok(["snapshot", "create", &server.id]);
    coffer.ok(["stop", "-t", "0", &server.id]);
    coffer.ok(["restore", &snapshot]);
    assert_eq!(address(&server), before);
    until_served(&client, &name);
    coffer.ok(["snapshot", "rm", &snapshot]);
}

#[test]
fn a_stopped_sandbox_is_connected_and_disconnected() {
    let coffer = Coffer::shared();
    let (one, two) = (
        Network::new(&coffer, &["--subnet", "10.213.77.0/24"]),
        Network::new(&coffer, &[]),
    );
    let name = unique("srv");
    let flags = ["--ip", "10.213.77.9", "--network", "default"];
    let server = one.sandbox(&name, &flags, SERVER);
    assert_eq!(address(&server), "10.213.77.9");
    let client = two.sandbox(&unique("cli"), &[], IDLE);
    assert_ne!(get(&client, &name), "served");
    let connect = ["network", "connect", "--alias", "web", &two.name, &name];
    coffer.ok(["stop", "-t", "0", &server.id]);
    coffer.ok(connect);
    coffer.ok(["start", &server.id]);
    until_served(&client, "web");
    // It is on both.
    let first = one.sandbox(&unique("cli"), &[], IDLE);
    until_served(&first, "10.213.77.9");
    coffer.ok(["stop", "-t", "0", &server.id]);
    coffer.ok(["network", "disconnect", &one.name, &name]);
    coffer.ok(["start", &server.id]);
    until_served(&client, &name);
    assert_ne!(get(&first, &name), "served");
    let networks = server.inspect()["networks"].as_array().unwrap().len();
    assert_eq!(networks, 1);
}

#[test]
fn networks_are_joined_and_left_while_a_sandbox_runs() {
    let coffer = Coffer::shared();
    let lan = Network::new(&coffer, &[]);
    let name = unique("srv");
    // On no named network at first.
    let server = coffer.detached(&["--name", &name, BUSYBOX, "sh", "-c", SERVER]);
    let client = lan.sandbox(&unique("cli"), &[], IDLE);
    assert_ne!(get(&client, "web"), "served");
    let connect = ["network", "connect", "--alias", "web", &lan.name, &name];
    let disconnect = ["network", "disconnect", &lan.name, &name];
    coffer.ok(["pause", &name]);
    coffer.refused(&connect, &["is paused"]);
    coffer.ok(["unpause", &name]);
    coffer.ok(connect);
    until_served(&client, "web");
    coffer.refused(&connect, &["already"]);
    let own = address(&server);
    let addresses = "ip -o addr show eth0";
    assert!(server.sh(addresses).contains(&own));
    let net = coffer.json(["net", "--json", &name]);
    let place = &net["networks"][0];
    assert_eq!(place["address"], own.as_str());
    assert_eq!(place["aliases"], serde_json::json!(["web"]));
    assert_eq!(place["internal"], false);
    let line = format!("On {}: {own}, ", lan.name);
    assert!(coffer.ok(["net", &name]).contains(&line));
    let fork = server.fork(&["--network-alias", "copy"]);
    until_served(&client, &address(&fork));
    until_served(&client, "copy");
    let alias = format!("nslookup web | grep -c {}; true", address(&fork));
    assert_eq!(client.sh(&alias), "0", "a fork has its source's alias");
    // A connection with a member ends.
    server.send(&["nc", "-ll", "-p", "81", "-e", "sleep", "1000"]);
    let script = "mkfifo /tmp/f; until nc web 81 <> /tmp/f; do usleep 100000; done";
    client.send(&["sh", "-c", script]);
    let connected = "netstat -tn | grep -c '81 .*ESTABLISHED'; true";
    until("connection of the members", || server.sh(connected) == "1");
    coffer.ok(disconnect);
    assert!(!server.sh(addresses).contains(&own));
    assert_eq!(server.sh(connected), "0");
    assert_ne!(get(&client, &name), "served");
    coffer.refused(&disconnect, &["is not in the network"]);
    // The next start has what was changed.
    coffer.ok(connect);
    coffer.ok(["stop", "-t", "0", &server.id]);
    coffer.ok(["start", &server.id]);
    until_served(&client, "web");
}

#[test]
fn a_standby_takes_its_place_on_a_network_at_the_claim() {
    let coffer = Coffer::shared();
    let lan = Network::new(&coffer, &[]);
    let (pool, name) = (unique("pool"), unique("srv"));
    let create = ["pool", "create", "--size", "1", "--name", &pool];
    let create = create.iter().chain(&["--network", "default", BUSYBOX]);
    coffer.ok(create);
    let server = lan.sandbox(&name, &[], SERVER);
    let client = lan.sandbox(&unique("cli"), &[], IDLE);
    until_served(&client, &name);
    assert_eq!(get(&client, &address(&server)), "served");
    coffer.ok(["pool", "rm", &pool]);
}

#[test]
fn networks_are_made_listed_and_removed() {
    let coffer = Coffer::shared();
    let (name, label) = (unique("lan"), unique("label"));
    let flag = format!("k={label}");
    let id = coffer.ok(["network", "create", "--internal", "--label", &flag, &name]);
    let filter = format!("label={flag}");
    let table = coffer.ok(["network", "ls", "--filter", &filter]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NETWORK ID"), "{table}");
    assert!(
        lines[1].starts_with(&id[..12]) && lines[1].contains(&name),
        "{table}"
    );
    assert_eq!(lines.len(), 2);
    assert_eq!(
        coffer.ok(["network", "ls", "-q", "--filter", &filter]),
        id[..12]
    );
    let form = "{{.Name}} {{.Internal}}";
    let row = coffer.ok(["network", "ls", "--format", form, "--filter", &filter]);
    assert_eq!(row, format!("{name} true"));
    let json = coffer.json(["network", "inspect", &name]);
    assert_eq!(json[0]["labels"]["k"], label.as_str());
    let subnet = "{{(index .IPAM.Config 0).Subnet}}";
    let subnet = coffer.ok(["network", "inspect", "-f", subnet, &id[..12]]);
    assert_eq!(json[0]["subnet"], subnet.as_str());
    coffer.refused(&["network", "create", &name], &["is taken"]);
    coffer.refused(
        &["network", "create", "--subnet", &subnet, "x"],
        &["overlaps"],
    );
    assert_eq!(coffer.ok(["network", "rm", &name]), name);
    coffer.refused(&["network", "inspect", &name], &["no network"]);
    coffer.ok(["network", "rm", "-f", &name]);
    for (flags, word) in [
        (&["--network", "lost-network"][..], "lost-network"),
        (&["--ip", "10.0.0.9"], "--ip"),
        (
            &["--network", "none", "--network-alias", "a"],
            "--network-alias",
        ),
    ] {
        let args = ["run", "--rm"]
            .iter()
            .chain(flags)
            .chain(&[BUSYBOX, "true"]);
        let finished = coffer.run(args);
        assert_eq!(finished.code, 125, "{finished:?}");
        assert!(finished.stderr.contains(word), "{finished:?}");
    }
}
