//! UDP and ICMP through the stack: flows, errors, large datagrams, times.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use cofferdam_net::{Event, Intercept, Intercepted, Protocol, Reason, Secrets};
use guest::{Guest, config};
use smoltcp::{
    phy::ChecksumCapabilities,
    socket::icmp,
    wire::{Icmpv4Packet, Icmpv4Repr},
};

fn echo_server(address: &str) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            let (count, peer) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..count], peer).unwrap();
            if &buffer[..count] == b"end" {
                return;
            }
        }
    });
    (address, thread)
}

fn echoes(address: &str) {
    let (server, thread) = echo_server(address);
    let mut config = config();
    config.mtu = 9000;
    let mut guest = Guest::with(config, &["allow 127.0.0.1", "allow ::1"]);
    // smoltcp would send to ::1 from ::1.
    let own = guest.config.guest_like(server.ip()).unwrap();
    let handle = guest.udp_socket_at(own, 5000);
    for size in [0, 1, 1400, 8000] {
        let data: Vec<u8> = (0..=255u8).cycle().take(size).collect();
        guest.send_to(handle, server, &data);
        assert_eq!(guest.receive_from(handle), (data, server));
    }
    let stats = guest.handle.stats();
    assert_eq!((stats.udp_flows, stats.udp_opened), (1, 1));
    guest.send_to(handle, server, b"end");
    guest.receive_from(handle);
    thread.join().unwrap();
}

#[test]
fn datagrams_go_both_ways_over_ipv4() {
    echoes("127.0.0.1:0");
}

#[test]
fn datagrams_go_both_ways_over_ipv6() {
    echoes("[::1]:0");
}

#[test]
fn a_datagram_larger_than_the_mtu_reaches_the_guest_in_fragments() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let mut guest = Guest::new();
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, server.local_addr().unwrap(), b"x");
    let (_, peer) = guest.until(|_| server.recv_from(&mut [0; 8]).ok());
    let data: Vec<u8> = (0..=250u8).cycle().take(20_000).collect();
    server.send_to(&data, peer).unwrap();
    let mut whole = vec![0; 20_008];
    let mut came = 0;
    while came < whole.len() {
        let frame = guest.frame(|frame| frame[12..14] == [8, 0] && frame[23] == 17);
        let place = u16::from_be_bytes([frame[20], frame[21]]);
        let offset = usize::from(place & 0x1fff) * 8;
        assert!(frame.len() <= 1514);
        whole[offset..offset + frame.len() - 34].copy_from_slice(&frame[34..]);
        came += frame.len() - 34;
    }
    assert_eq!(whole[8..], data);
}

#[test]
fn a_closed_port_is_an_icmp_error() {
    // A socket that has another peer takes nothing of this one, and keeps the port from others.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    closed.connect("127.0.0.1:9").unwrap();
    let address = closed.local_addr().unwrap();
    let mut guest = Guest::new();
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, address, b"x");
    let frame = guest.icmp_error();
    assert_eq!(frame[34..36], [3, 3]);
    // It quotes the datagram: addresses and ports.
    assert_eq!(frame[42 + 16..42 + 20], [127, 0, 0, 1]);
    assert_eq!(frame[42 + 20..42 + 22], 5000u16.to_be_bytes());
}

#[test]
fn a_denied_datagram_is_prohibited_and_leaves_nothing() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let mut guest = Guest::with(config(), &[]);
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, server.local_addr().unwrap(), b"x");
    let frame = guest.icmp_error();
    assert_eq!(frame[34..36], [3, 13]);
    assert!(server.recv(&mut [0; 8]).is_err());
    guest.event(|event| {
        matches!(
            event,
            Event::Denied {
                protocol: Protocol::Udp,
                ..
            }
        )
    });
    assert_eq!(guest.handle.stats().udp_flows, 0);
}

/// A proxy that takes nothing.
#[derive(Debug)]
struct Idle;

impl Intercept for Idle {
    fn wants(&self, _: &str, _: u16) -> bool {
        false
    }

    fn take(&self, _: Intercepted) {}
}

#[test]
fn a_guest_with_secrets_has_no_quic() {
    let mut config = config();
    config.secrets = Some(Secrets {
        placeholders: vec![("T".to_owned(), "coffer-secret-T-00".to_owned())],
        proxy: Arc::new(Idle),
    });
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, SocketAddr::from(([127, 0, 0, 1], 443)), b"x");
    assert_eq!(guest.icmp_error()[34..36], [3, 13]);
    guest.event(|event| match event {
        Event::Denied { denial, .. } => denial.reason == Reason::Secrets,
        _ => false,
    });
}

#[test]
fn a_flow_without_an_answer_ends_by_time_and_one_with_an_answer_later() {
    let (server, thread) = echo_server("127.0.0.1:0");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.timeouts.udp_unanswered = Duration::from_millis(100);
    config.timeouts.udp_idle = Duration::from_secs(100);
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let handle = guest.udp_socket(5000);
    guest.send_to(handle, server, b"x");
    guest.receive_from(handle);
    guest.send_to(handle, silent.local_addr().unwrap(), b"x");
    guest.until_stats(|stats| stats.udp_flows == 2);
    guest.until_stats(|stats| stats.udp_flows == 1);
    guest.send_to(handle, server, b"end");
    guest.receive_from(handle);
    thread.join().unwrap();
}

#[test]
fn datagram_flows_past_the_limit_are_dropped_and_reported() {
    let mut config = config();
    config.limits.udp_flows = 3;
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let servers: Vec<_> = (0..5)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let handle = guest.udp_socket(5000);
    for server in &servers {
        guest.send_to(handle, server.local_addr().unwrap(), b"x");
    }
    guest.event(|event| {
        matches!(
            event,
            Event::FlowLimit {
                protocol: Protocol::Udp,
                limit: 3
            }
        )
    });
    guest.until_stats(|stats| stats.flows_refused == 2 && stats.udp_flows == 3);
}

/// The reply to an echo, or none if an ICMP error comes.
fn ping(guest: &mut Guest, destination: std::net::Ipv4Addr) -> Option<Vec<u8>> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(77)).unwrap();
    let handle = guest.sockets.add(socket);
    let request = Icmpv4Repr::EchoRequest {
        ident: 77,
        seq_no: 5,
        data: b"payload",
    };
    let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let room = socket.send(
        request.buffer_len(),
        std::net::IpAddr::from(destination).into(),
    );
    let mut packet = Icmpv4Packet::new_unchecked(room.unwrap());
    request.emit(&mut packet, &ChecksumCapabilities::default());
    guest.until(|guest| {
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
        if let Ok((reply, _)) = socket.recv() {
            assert_eq!(reply[0], 0);
            return Some(Some(reply.to_vec()));
        }
        let stats = guest.handle.stats();
        (stats.denied > 0 || stats.connects_failed > 0).then_some(None)
    })
}

#[test]
fn the_gateway_answers_an_echo() {
    let mut guest = Guest::with(config(), &[]);
    let gateway = guest.config.v4.unwrap().gateway;
    let reply = ping(&mut guest, gateway).unwrap();
    assert_eq!(&reply[4..], b"\0\x4d\0\x05payload");
}

#[test]
fn a_denied_echo_is_prohibited() {
    let mut guest = Guest::with(config(), &[]);
    assert_eq!(ping(&mut guest, std::net::Ipv4Addr::LOCALHOST), None);
    assert_eq!(guest.handle.stats().denied, 1);
}

#[test]
fn an_allowed_echo_is_answered_where_the_host_lets_this_user_ping() {
    let mut guest = Guest::new();
    match ping(&mut guest, std::net::Ipv4Addr::LOCALHOST) {
        Some(reply) => assert_eq!(&reply[4..], b"\0\x4d\0\x05payload"),
        // The host refuses ping sockets, and the guest got an ICMP error.
        None => assert_eq!(guest.handle.stats().connects_failed, 1),
    }
}
