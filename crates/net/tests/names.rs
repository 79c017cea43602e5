//! Rules on names inside connections: TLS's server name and HTTP's Host.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use cofferdam_net::{Event, Policy, Profile, Reason};
use guest::{
    Guest, config,
    outside::{OUTSIDE, Outside},
    rules,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{RData, Record, RecordType, rdata::A},
};
use smoltcp::{iface::SocketHandle, socket::tcp};

/// A guest that has looked up `good.org`, which is `address`.
fn guest(profile: Profile, allowed: &[&str], address: Ipv4Addr) -> Guest {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.resolvers = vec![udp.local_addr().unwrap()];
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        let (count, peer) = udp.recv_from(&mut buffer).unwrap();
        let query = Message::from_vec(&buffer[..count]).unwrap();
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        reply.add_query(query.queries[0].clone());
        let data = RData::A(A(address));
        reply.add_answer(Record::from_rdata("good.org.".parse().unwrap(), 60, data));
        udp.send_to(&reply.to_vec().unwrap(), peer).unwrap();
    });
    let mut guest = Guest::with_policy(config, Policy::new(profile, rules(allowed)));
    let gateway = SocketAddr::new(guest.config.v4.unwrap().gateway.into(), 53);
    let handle = guest.udp_socket(5000);
    let mut query = Message::new(1, MessageType::Query, OpCode::Query);
    query.add_query(Query::query("good.org.".parse().unwrap(), RecordType::A));
    guest.send_to(handle, gateway, &query.to_vec().unwrap());
    guest.receive_from(handle);
    guest
}

fn open(guest: &mut Guest, listener: &TcpListener) -> (SocketHandle, TcpStream) {
    let handle = guest.connect(listener.local_addr().unwrap());
    let (stream, _) = listener.accept().unwrap();
    (handle, stream)
}

/// Whether the host receives `words` of the guest, or a reset.
fn passes(guest: &mut Guest, listener: &TcpListener, words: &[u8]) -> bool {
    let (handle, mut stream) = open(guest, listener);
    // In two pieces, so that the first cannot decide.
    let (first, second) = words.split_at(words.len() / 2);
    guest.tcp(handle).send_slice(first).unwrap();
    guest.work();
    guest.tcp(handle).send_slice(second).unwrap();
    let length = words.len();
    let reads = thread::spawn(move || stream.read_exact(&mut vec![0; length]).is_ok());
    guest.until(|_| reads.is_finished().then_some(()));
    let passed = reads.join().unwrap();
    if !passed {
        guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    }
    passed
}

fn tls(name: &str) -> Vec<u8> {
    let with_length = |data: &[u8]| {
        let length = u16::try_from(data.len()).unwrap();
        [&length.to_be_bytes()[..], data].concat()
    };
    let list = [&[0][..], &with_length(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &with_length(&with_length(&list))].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(with_length(&extension));
    let mut message = vec![1, 0];
    message.extend(with_length(&body));
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

fn http(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

const ALLOWED: &[&str] = &["allow good.org"];

#[test]
fn an_allowed_name_passes_and_another_at_the_same_address_does_not() {
    let Some(outside) =
        Outside::of_test("an_allowed_name_passes_and_another_at_the_same_address_does_not")
    else {
        return;
    };
    let mut guest = guest(Profile::None, ALLOWED, OUTSIDE);
    let listener = outside.listen();
    assert!(passes(&mut guest, &listener, &tls("good.org")));
    assert!(passes(&mut guest, &listener, &http("good.org")));
    assert!(!passes(&mut guest, &listener, &tls("evil.org")));
    let event = guest.event(|event| matches!(event, Event::Denied { .. }));
    let Event::Denied {
        destination,
        name,
        denial,
        ..
    } = event
    else {
        panic!("another event");
    };
    let address = listener.local_addr().unwrap();
    assert_eq!(address.ip(), IpAddr::from(OUTSIDE));
    assert_eq!((destination, name.as_deref()), (address, Some("evil.org")));
    assert_eq!(denial.allow, format!("evil.org:{}/tcp", address.port()));
    assert!(!passes(&mut guest, &listener, &http("evil.org")));
    guest.until_stats(|stats| stats.tcp_flows == 0 || stats.denied == 2);
}

#[test]
fn an_address_that_a_name_opened_takes_no_other_public_name() {
    let Some(outside) =
        Outside::of_test("an_address_that_a_name_opened_takes_no_other_public_name")
    else {
        return;
    };
    let mut guest = guest(Profile::Public, ALLOWED, OUTSIDE);
    let listener = outside.listen();
    assert!(!passes(&mut guest, &listener, &tls("public.org")));
}

#[test]
fn a_hidden_name_is_denied_and_a_protocol_without_names_passes() {
    let Some(outside) =
        Outside::of_test("a_hidden_name_is_denied_and_a_protocol_without_names_passes")
    else {
        return;
    };
    let mut guest = guest(Profile::None, ALLOWED, OUTSIDE);
    let listener = outside.listen();
    assert!(!passes(&mut guest, &listener, b"GET / HTTP/1.0\r\n\r\n"));
    guest.event(|event| {
        matches!(event, Event::Denied { denial, .. } if denial.reason == Reason::HiddenName)
    });
    assert!(passes(&mut guest, &listener, b"SSH-2.0-client\r\n"));
}

#[test]
fn a_server_may_speak_first() {
    let Some(outside) = Outside::of_test("a_server_may_speak_first") else {
        return;
    };
    let mut guest = guest(Profile::None, ALLOWED, OUTSIDE);
    let listener = outside.listen();
    let (handle, mut stream) = open(&mut guest, &listener);
    stream.write_all(b"220 welcome\r\n").unwrap();
    guest.until(|guest| guest.tcp(handle).can_recv().then_some(()));
    guest.tcp(handle).close();
    guest.work();
    let reads = thread::spawn(move || stream.read(&mut [0; 8]).unwrap());
    guest.until(|_| reads.is_finished().then_some(()));
    assert_eq!(reads.join().unwrap(), 0);
}

#[test]
fn a_denied_name_is_reset_on_any_address() {
    let denied = &["deny bad.org", "allow 127.0.0.1"];
    let mut guest = guest(Profile::Public, denied, Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(!passes(&mut guest, &listener, &tls("bad.org")));
    assert!(!passes(&mut guest, &listener, &http("BAD.org:80")));
    assert!(passes(&mut guest, &listener, &tls("fine.org")));
    assert!(passes(&mut guest, &listener, b"GET / HTTP/1.0\r\n\r\n"));
}

#[test]
fn a_flow_is_judged_again_by_the_name_that_it_said() {
    let Some(outside) = Outside::of_test("a_flow_is_judged_again_by_the_name_that_it_said") else {
        return;
    };
    let mut guest = guest(Profile::None, ALLOWED, OUTSIDE);
    let listener = outside.listen();
    let (handle, mut stream) = open(&mut guest, &listener);
    let hello = tls("good.org");
    guest.tcp(handle).send_slice(&hello).unwrap();
    let reads = thread::spawn(move || {
        stream.read_exact(&mut vec![0; hello.len()]).unwrap();
        stream
    });
    guest.until(|_| reads.is_finished().then_some(()));
    let mut stream = reads.join().unwrap();
    let control = guest.handle.clone();
    assert_eq!(
        control.flows().unwrap()[0].name.as_deref(),
        Some("good.org")
    );
    let with = |texts: &[&str]| {
        control
            .set_policy(Profile::None, rules(texts), Vec::new())
            .unwrap();
        control.reset_denied().unwrap()
    };
    assert_eq!(with(ALLOWED), 0);
    let address = format!("allow {OUTSIDE}");
    assert_eq!(with(&[&address]), 0);
    assert_eq!(with(&["deny good.org", &address]), 1);
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    assert!(stream.read(&mut [0]).is_err(), "no reset");
}
