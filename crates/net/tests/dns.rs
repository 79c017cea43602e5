//! DNS through the gateway: resolvers that answer, lie, cut and are down; rules on names.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use cofferdam_net::{Event, Policy, Profile};
use guest::{
    Guest, config,
    outside::{OUTSIDE, Outside},
    rules,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, CNAME},
    },
};
use smoltcp::{iface::SocketHandle, socket::tcp};

/// A resolver on UDP and TCP of one port that answers each query with `answer`. Its threads end
/// with the test's process.
fn resolver(
    answer: impl Fn(&Message, bool) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let answer = std::sync::Arc::new(answer);
    let over_tcp = std::sync::Arc::clone(&answer);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((count, peer)) = udp.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..count]).unwrap();
            if let Some(reply) = answer(&query, false) {
                udp.send_to(&reply, peer).unwrap();
            }
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let reply = over_tcp(&Message::from_vec(&query).unwrap(), true).unwrap();
            let length = u16::try_from(reply.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
    address
}

fn reply(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(query.queries[0].clone());
    reply
}

fn a(name: &str, address: [u8; 4]) -> Record {
    let data = RData::A(A(Ipv4Addr::from(address)));
    Record::from_rdata(name.parse().unwrap(), 300, data)
}

fn guest_with(resolvers: &[SocketAddr], policy: Policy) -> Guest {
    let mut config = config();
    config.resolvers = resolvers.to_vec();
    config.timeouts.dns_try = Duration::from_millis(200);
    Guest::with_policy(config, policy)
}

fn public(allowed: &[&str]) -> Policy {
    Policy::new(Profile::Public, rules(allowed))
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.parse().unwrap(), kind));
    message.to_vec().unwrap()
}

fn gateway(guest: &Guest) -> SocketAddr {
    SocketAddr::new(guest.config.v4.unwrap().gateway.into(), 53)
}

fn look_up(guest: &mut Guest, handle: SocketHandle, name: &str) -> Message {
    let gateway = gateway(guest);
    guest.send_to(handle, gateway, &query(name, RecordType::A));
    let (bytes, source) = guest.receive_from(handle);
    assert_eq!(source, gateway);
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.id, 4711);
    message
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::from(address.0)),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

#[test]
fn an_answer_of_the_resolver_reaches_the_guest() {
    let resolver = resolver(|query, _| {
        let mut reply = reply(query);
        reply.add_answer(a("example.com.", [1, 2, 3, 4]));
        reply.to_vec().ok()
    });
    let mut guest = guest_with(&[resolver], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "example.com.");
    assert_eq!(addresses(&message), [IpAddr::from([1, 2, 3, 4])]);
    assert_eq!(message.answers[0].ttl, 300);
}

#[test]
fn a_rule_on_a_name_opens_the_address_behind_its_alias_and_no_other() {
    let Some(outside) =
        Outside::of_test("a_rule_on_a_name_opens_the_address_behind_its_alias_and_no_other")
    else {
        return;
    };
    let server = outside.listen();
    let port = server.local_addr().unwrap().port();
    let resolver = resolver(|query, _| {
        let mut reply = reply(query);
        let alias = RData::CNAME(CNAME("cdn.net.".parse().unwrap()));
        reply.add_answer(Record::from_rdata("good.org.".parse().unwrap(), 0, alias));
        reply.add_answer(a("cdn.net.", OUTSIDE.octets()));
        reply.to_vec().ok()
    });
    let allowed = format!("allow good.org:{port}");
    let mut guest = guest_with(&[resolver], Policy::new(Profile::None, rules(&[&allowed])));
    let early = guest.begin_connect(server.local_addr().unwrap(), 4096);
    assert!(
        !guest.connected(early),
        "open before the name was looked up"
    );
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "good.org.");
    assert_eq!(addresses(&message), [IpAddr::from(OUTSIDE)]);
    guest.connect(server.local_addr().unwrap());
    let denied = look_up(&mut guest, handle, "evil.org.");
    assert_eq!(denied.metadata.response_code, ResponseCode::Refused);
    let event = guest.event(|event| matches!(event, Event::NameDenied { .. }));
    let Event::NameDenied { name, denial } = event else {
        panic!("another event");
    };
    assert_eq!(
        (name.as_str(), denial.allow.as_str()),
        ("evil.org", "evil.org")
    );
}

#[test]
fn a_denial_of_everything_leaves_no_look_up_open() {
    let resolver = resolver(|query, _| reply(query).to_vec().ok());
    let mut guest = guest_with(&[resolver], public(&["allow host:5432", "deny *"]));
    let handle = guest.udp_socket(5000);
    // The second is a name that no rule can be about.
    for name in ["data.attacker.org.", "*.attacker.org."] {
        let message = look_up(&mut guest, handle, name);
        assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    }
    let message = look_up(&mut guest, handle, "host.coffer.internal.");
    assert_eq!(addresses(&message).len(), 1);
}

#[test]
fn private_answers_to_public_names_are_refused() {
    let resolver = resolver(|query, _| {
        let mut reply = reply(query);
        reply.add_answer(a("rebind.org.", [169, 254, 169, 254]));
        reply.to_vec().ok()
    });
    let mut guest = guest_with(&[resolver], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "rebind.org.");
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert!(message.answers.is_empty());
    guest.event(|event| {
        matches!(event, Event::RebindingRefused { address, .. }
            if *address == IpAddr::from([169, 254, 169, 254]))
    });
}

#[test]
fn the_next_resolver_is_asked_and_then_the_query_fails() {
    let closed = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let failing = resolver(|query, _| {
        let mut reply = reply(query);
        reply.metadata.response_code = ResponseCode::ServFail;
        reply.to_vec().ok()
    });
    let good = resolver(|query, _| {
        let mut reply = reply(query);
        reply.add_answer(a("a.org.", [1, 2, 3, 4]));
        reply.to_vec().ok()
    });
    let silent = silent.local_addr().unwrap();
    let mut guest = guest_with(&[closed, silent, failing, good], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "a.org.");
    assert_eq!(addresses(&message).len(), 1);
    let mut guest = guest_with(&[closed, silent, failing], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "a.org.");
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    guest.event(|event| matches!(event, Event::ResolversDown { name } if name == "a.org"));
    assert_eq!(guest.handle.stats().dns_failed, 1);
}

#[test]
fn without_a_resolver_a_query_fails_at_once() {
    let mut guest = guest_with(&[], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "a.org.");
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn forged_answers_are_ignored_until_the_right_one_comes() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 4096];
        let (count, peer) = udp.recv_from(&mut buffer).unwrap();
        let query = Message::from_vec(&buffer[..count]).unwrap();
        let mut right = reply(&query);
        right.add_answer(a("a.org.", [1, 2, 3, 4]));
        let mut forged = right.clone();
        forged.metadata.id ^= 1;
        forged.answers = vec![a("a.org.", [6, 6, 6, 6])];
        let mut other = forged.clone();
        other.metadata.id ^= 1;
        other.queries = vec![Query::query("b.org.".parse().unwrap(), RecordType::A)];
        for message in [forged.to_vec(), other.to_vec(), Ok(vec![1]), right.to_vec()] {
            udp.send_to(&message.unwrap(), peer).unwrap();
        }
    });
    let mut guest = guest_with(&[address], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "a.org.");
    assert_eq!(addresses(&message), [IpAddr::from([1, 2, 3, 4])]);
    thread.join().unwrap();
}

/// Asks over TCP, all queries at once, and returns the answers.
fn look_up_tcp(guest: &mut Guest, queries: &[Vec<u8>]) -> Vec<Message> {
    let handle = guest.connect(gateway(guest));
    for query in queries {
        let length = u16::try_from(query.len()).unwrap();
        guest.tcp(handle).send_slice(&length.to_be_bytes()).unwrap();
        guest.tcp(handle).send_slice(query).unwrap();
    }
    guest.tcp(handle).close();
    let mut bytes = Vec::new();
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            let more = socket.recv(|data| (data.len(), data.to_vec()));
            bytes.extend(more.unwrap());
        }
        (!socket.may_recv() && socket.state() != tcp::State::FinWait2).then_some(())
    });
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        messages.push(Message::from_vec(&rest[..length]).unwrap());
        bytes = rest[length..].to_vec();
    }
    messages
}

#[test]
fn an_answer_that_is_too_large_for_a_datagram_comes_over_tcp() {
    let resolver = resolver(|query, tcp| {
        let mut reply = reply(query);
        if tcp {
            for number in 0..100 {
                reply.add_answer(a("big.org.", [1, 2, 3, number]));
            }
        } else {
            reply.metadata.truncation = true;
        }
        reply.to_vec().ok()
    });
    let mut guest = guest_with(&[resolver], public(&[]));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "big.org.");
    assert!(message.metadata.truncation && message.answers.is_empty());
    let messages = look_up_tcp(&mut guest, &[query("big.org.", RecordType::A)]);
    assert_eq!(addresses(&messages[0]).len(), 100);
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

#[test]
fn a_resolver_that_cuts_its_answers_over_tcp_too_is_not_asked_without_end() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&asked);
    let liar = resolver(move |query, over_tcp| {
        if over_tcp {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        let mut cut = reply(query);
        cut.metadata.truncation = true;
        Some(cut.to_vec().unwrap())
    });
    let mut guest = guest_with(&[liar], public(&[]));
    let handle = guest.udp_socket(5000);
    let answer = look_up(&mut guest, handle, "cut.example.");
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // Once in each round.
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn many_queries_share_one_connection() {
    let resolver = resolver(|query, _| {
        let mut reply = reply(query);
        let name = query.queries[0].name.to_ascii();
        reply.add_answer(a(&name, [1, 2, 3, 4]));
        reply.to_vec().ok()
    });
    let mut guest = guest_with(&[resolver], public(&[]));
    let queries: Vec<_> = (0..50)
        .map(|number| query(&format!("n{number}.org."), RecordType::A))
        .collect();
    let messages = look_up_tcp(&mut guest, &queries);
    assert_eq!(messages.len(), 50);
    assert!(messages.iter().all(|message| message.answers.len() == 1));
}

#[test]
fn many_queries_for_names_of_the_stack_share_one_connection() {
    let mut guest = guest_with(&[], public(&[]));
    let queries = vec![query("host.coffer.internal.", RecordType::A); 50];
    assert_eq!(look_up_tcp(&mut guest, &queries).len(), 50);
}

#[test]
fn queries_past_the_limit_fail_and_the_others_go_on() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.resolvers = vec![silent.local_addr().unwrap()];
    config.limits.dns_pending = 3;
    config.timeouts.dns_try = Duration::from_secs(30);
    let mut guest = Guest::with_policy(config, public(&[]));
    let handle = guest.udp_socket(5000);
    let gateway = gateway(&guest);
    for _ in 0..4 {
        guest.send_to(handle, gateway, &query("a.org.", RecordType::A));
    }
    let (bytes, _) = guest.receive_from(handle);
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(guest.handle.stats().flows_refused, 1);
}

#[test]
fn names_of_the_stack_need_no_resolver() {
    let mut guest = guest_with(&[], Policy::new(Profile::None, Vec::new()));
    let handle = guest.udp_socket(5000);
    let message = look_up(&mut guest, handle, "host.coffer.internal.");
    let host = IpAddr::from(guest.config.v4.unwrap().host);
    assert_eq!(addresses(&message), [host]);
    let message = look_up(&mut guest, handle, "other.coffer.internal.");
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn a_connection_that_sends_no_query_is_closed() {
    let mut guest = guest_with(&[], public(&[]));
    let handle = guest.connect(gateway(&guest));
    guest.tcp(handle).send_slice(&[0xff; 100]).unwrap();
    guest.until(|guest| (!guest.tcp(handle).may_recv()).then_some(()));
}
