//! A policy that changes while flows exist, and what is seen of them.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use cofferdam_net::{Event, Profile, Protocol, PublishSpec, Reason};
use guest::{Guest, config, rules};
use smoltcp::socket::tcp;

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn flows_that_a_new_policy_denies_are_reset_on_both_sides_and_others_go_on() {
    let mut guest = Guest::new();
    let ((kept, open), (lost, closed)) = (listen(), listen());
    let kept_handle = guest.connect(open);
    let lost_handle = guest.connect(closed);
    let (mut kept, _) = kept.accept().unwrap();
    let (mut lost, _) = lost.accept().unwrap();
    let handle = guest.handle.clone();
    let rule = format!("deny 127.0.0.1:{}", closed.port());
    let changed = rules(&[&rule, "allow 127.0.0.0/8"]);
    handle
        .set_policy(Profile::Public, changed, Vec::new())
        .unwrap();
    assert_eq!(handle.reset_denied().unwrap(), 1);
    guest.until(|guest| (guest.tcp(lost_handle).state() == tcp::State::Closed).then_some(()));
    assert!(lost.read(&mut [0]).is_err(), "no reset");
    let denied = guest.event(|event| matches!(event, Event::Denied { .. }));
    let Event::Denied {
        destination,
        denial,
        ..
    } = denied
    else {
        panic!("another event")
    };
    assert_eq!((destination, denial.reason), (closed, Reason::Rule(rule)));
    kept.write_all(b"x").unwrap();
    guest.until(|guest| guest.tcp(kept_handle).can_recv().then_some(()));
}

#[test]
fn a_datagram_flow_that_a_new_policy_denies_ends() {
    let mut guest = Guest::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = server.local_addr().unwrap();
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, remote, b"a");
    guest.until_stats(|stats| stats.udp_flows == 1);
    server.recv(&mut [0]).unwrap();
    let control = guest.handle.clone();
    control
        .set_policy(Profile::None, Vec::new(), Vec::new())
        .unwrap();
    assert_eq!(control.reset_denied().unwrap(), 1);
    guest.send_to(handle, remote, b"b");
    guest.icmp_error();
    server.set_nonblocking(true).unwrap();
    assert!(server.recv(&mut [0]).is_err(), "a datagram left the stack");
}

#[test]
fn a_connection_to_a_published_port_is_listed_with_its_peer_and_counts_as_use() {
    let mut guest = Guest::with(config(), &[]);
    let control = guest.handle.clone();
    assert_eq!(control.last_published_use(), None);
    let asked = PublishSpec {
        protocol: Protocol::Tcp,
        host: "127.0.0.1:0".parse().unwrap(),
        guest_port: 8080,
    };
    let port = control.publish(asked).unwrap();
    let server = guest.tcp_socket(4096);
    guest.tcp(server).listen(8080).unwrap();
    let before = Instant::now();
    let client = TcpStream::connect(port.host).unwrap();
    guest.until(|guest| guest.tcp(server).may_send().then_some(()));
    guest.until_stats(|stats| stats.published_flows == 1);
    let flow = control.flows().unwrap().remove(0);
    assert!(flow.is_inbound, "{flow:?}");
    assert_eq!(flow.remote, client.local_addr().unwrap());
    assert_eq!(flow.guest.port(), 8080);
    assert!(flow.age < Duration::from_secs(60), "{flow:?}");
    assert!(control.last_published_use().unwrap() >= before);
    // No policy is about who connects to a published port.
    control
        .set_policy(Profile::None, Vec::new(), Vec::new())
        .unwrap();
    assert_eq!(control.reset_denied().unwrap(), 0);
    drop(client);
    guest.until(|guest| (!guest.tcp(server).may_recv()).then_some(()));
    guest.tcp(server).close();
    guest.until_stats(|stats| stats.published_flows == 0);
    let ended = control.last_published_use().unwrap();
    assert!(ended <= Instant::now());
    assert_eq!(control.last_published_use(), Some(ended), "it goes on");
}
