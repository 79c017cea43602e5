//! The network interface, which comes with the identity.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_proto::{FailureKind, GuestNetwork, HostMessage, Identity, NetworkIdentity};

use crate::guest::{Guest, Host, process, shell};

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A network whose addresses and MAC address end in `number`.
fn network(number: u8) -> GuestNetwork {
    let v6 = |last: u8| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()));
    let v4 = |last: u8| IpAddr::V4(Ipv4Addr::new(198, 18, 0, last));
    GuestNetwork {
        mac: [2, 0, 0, 0, 1, number],
        mtu: 1400,
        addresses: vec![(v4(number), 24), (v6(number), 64)],
        gateways: vec![v4(1), v6(1)],
        gateway_mac: GATEWAY,
        dns_servers: vec![v4(1)],
        dns_search: vec!["example.com".to_owned()],
        dns_options: vec!["ndots:1".to_owned()],
        hosts: vec![(v4(1), "host.coffer.internal".to_owned())],
    }
}

fn with_network(identity: Identity, number: u8) -> Identity {
    Identity {
        network: Some(NetworkIdentity::new(&network(number))),
        ..identity
    }
}

fn text(host: &mut Host, script: &str) -> String {
    host.run(shell(script)).text()
}

#[test]
fn an_interface_works_before_the_workload_runs_and_its_names_are_in_etc() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let _peer = guest.peer();
    let host = &mut guest.host;
    host.mount(&Host::root(cofferdam_proto::UpperDevice::Disk));
    host.adopt(with_network(Host::identity("box"), 2));
    let script = "ip -o addr show eth0; ip link show eth0; ip route; \
        ip -6 route; cat /etc/resolv.conf /etc/hosts; while :; do sleep 1000; done";
    let workload = host.start(shell(script));
    let said =
        |host: &mut Host| String::from_utf8_lossy(&host.sessions[&workload].stdout).into_owned();
    host.until(workload, |outcome| {
        String::from_utf8_lossy(&outcome.stdout).contains("host.coffer.internal")
    });
    let said = said(host);
    for part in [
        "inet 198.18.0.2/24",
        "inet6 fd00::2/64",
        "02:00:00:00:01:02",
        "mtu 1400",
        "default via 198.18.0.1",
        "default via fd00::1",
        "nameserver 198.18.0.1\nsearch example.com\noptions ndots:1\n",
        "198.18.0.2\tbox\n",
        "198.18.0.1\thost.coffer.internal\n",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert!(!said.contains("tentative"), "{said}");
    for gateway in ["198.18.0.1", "fd00::1"] {
        let ping = host.run(shell(&format!("ping -c 1 -W 20 {gateway} 2>&1")));
        let said = ping.text();
        assert!(said.contains("1 packets received"), "{gateway}: {said}");
    }
}

#[test]
fn a_copy_has_addresses_of_its_own_and_no_inherited_connection() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let peer = guest.peer();
    let host = &mut guest.host;
    host.mount(&Host::root(cofferdam_proto::UpperDevice::Disk));
    host.adopt(with_network(Host::identity("box"), 2));
    let workload = host.start(shell("while :; do sleep 1000; done"));
    // A server and a client within the guest, and two clients of the gateway.
    let script = "mkfifo /dev/shm/silence; exec 3<>/dev/shm/silence; \
        nc -l -p 7 -e cat & until netstat -tln | grep -q ':7 '; do usleep 10000; done; (nc 127.0.0.1 7 <&3; echo inner >> /tmp/ended) & \
        for gateway in 198.18.0.1 fd00::1; do \
        (nc $gateway 80 <&3; echo $gateway >> /tmp/ended) & done; \
        until [ $(netstat -tn | grep -c ESTABLISHED) = 4 ]; do usleep 10000; done";
    host.run(shell(script));
    peer.wait_for_connection();
    peer.wait_for_connection();
    host.freeze(false);

    let mut copy = guest.capture().restore();
    let _peer = copy.peer();
    copy.host
        .take_over(workload, with_network(Host::other_identity(1), 3));
    let ended = "until [ $(cat /tmp/ended | wc -l) = 2 ]; do usleep 10000; done; \
        sort /tmp/ended; netstat -tn | grep -c ESTABLISHED";
    assert_eq!(text(&mut copy.host, ended), "198.18.0.1\nfd00::1\n2\n");
    let said = text(
        &mut copy.host,
        "ip -o addr show eth0; ip route; cat /etc/hosts",
    );
    for part in [
        "inet 198.18.0.3/24",
        "inet6 fd00::3/64",
        "default via",
        "198.18.0.3\tother-1",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert!(!said.contains("198.18.0.2"), "{said}");
    assert!(!said.contains("fd00::2"), "{said}");
    let ping = copy
        .host
        .run(process(&["ping", "-c", "1", "-W", "20", "198.18.0.1"]));
    assert!(ping.text().contains("1 packets received"));

    // The original keeps all of it.
    guest.host.thaw();
    let said = text(
        &mut guest.host,
        "netstat -tn | grep -c ESTABLISHED; ls /tmp",
    );
    assert_eq!(said, "4\n");
}

#[test]
fn an_identity_without_a_network_takes_the_interface_down() {
    let Some(mut guest) = Guest::boot(|_| {}) else {
        return;
    };
    let host = &mut guest.host;
    host.mount(&Host::root(cofferdam_proto::UpperDevice::Disk));
    host.adopt(with_network(Host::identity("box"), 2));
    host.adopt(Host::identity("box"));
    host.start(shell("while :; do sleep 1000; done"));
    let said = text(host, "ip -o addr show eth0; ip route; cat /etc/resolv.conf");
    assert_eq!(said, "");
    // Nothing can be reached by a setting that the kernel refuses.
    let mut bad = network(2);
    bad.addresses[0].1 = 33;
    let identity = Identity {
        network: Some(NetworkIdentity::new(&bad)),
        ..Host::identity("box")
    };
    let refused = host.ask_in_vain(&HostMessage::Adopt(identity));
    assert_eq!(refused.kind, FailureKind::Network);
    assert!(
        refused.message.contains("198.18.0.2"),
        "{}",
        refused.message
    );
}
