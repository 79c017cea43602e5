//! Addresses that the host gets while a stack runs.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::net::{TcpListener, UdpSocket};

use cofferdam_net::{Event, Policy, Profile, Protocol, Reason};
use guest::{
    Guest, config,
    outside::{Outside, shell},
    rules,
};

#[test]
fn an_address_that_the_host_gets_later_is_closed_at_once() {
    let Some(outside) = Outside::of_test("an_address_that_the_host_gets_later_is_closed_at_once")
    else {
        return;
    };
    let mut guest = Guest::with_policy(config(), Policy::new(Profile::Public, rules(&["allow *"])));
    let there = outside.listen();
    guest.connect(there.local_addr().unwrap());
    // A second address of the network: the kernel would connect to it from the first.
    shell("ip addr add 1.2.3.9/24 dev v0");
    let here = TcpListener::bind("1.2.3.9:0").unwrap();
    let address = here.local_addr().unwrap();
    let refused = guest.begin_connect(address, 4096);
    assert!(!guest.connected(refused));
    let host = |event: &Event, wanted| {
        matches!(event, Event::Denied { protocol, denial, .. }
        if *protocol == wanted && denial.reason == Reason::Host)
    };
    guest.event(|event| host(event, Protocol::Tcp));
    here.set_nonblocking(true).unwrap();
    assert!(here.accept().is_err(), "a connection left the stack");
    let server = UdpSocket::bind("1.2.3.9:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, server.local_addr().unwrap(), b"x");
    assert_eq!(guest.icmp_error()[34..36], [3, 13]);
    guest.event(|event| host(event, Protocol::Udp));
    assert!(
        server.recv(&mut [0; 8]).is_err(),
        "a datagram left the stack"
    );
    // A rule on the address itself still opens it.
    let rule = rules(&["allow 1.2.3.9"]);
    guest
        .handle
        .set_policy(Profile::Public, rule, Vec::new())
        .unwrap();
    guest.connect(address);
}
