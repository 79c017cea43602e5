//! Frames that a guest sends itself: spoofed, malformed, in fragments, too large, too many.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::net::UdpSocket;

use cofferdam_net::{Event, Reason};
use guest::{Guest, MAC, Random, config};

const GATEWAY: [u8; 6] = [0x02, 0x63, 0x66, 0, 0, 1];

fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap()
}

/// An Ethernet frame with an IPv4 packet; `place` is the word of flags and offset.
fn v4_frame(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    place: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut frame = GATEWAY.to_vec();
    frame.extend(MAC);
    frame.extend([8, 0]);
    let total = u16::try_from(20 + data.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 9]);
    header.extend(place.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source);
    header.extend(destination);
    let check = sum(&header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    frame.extend(header);
    frame.extend(data);
    frame
}

/// A UDP datagram without a checksum.
fn udp(port: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = 5555u16.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    datagram
}

const OWN: [u8; 4] = [10, 0, 2, 15];
const HOST: [u8; 4] = [127, 0, 0, 1];

#[test]
fn spoofed_addresses_are_dropped_and_counted() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::new();
    let good = v4_frame(OWN, HOST, 17, 0, &udp(port, b"good"));
    let mut other_mac = good.clone();
    other_mac[11] ^= 1;
    let other_ip = v4_frame([10, 0, 2, 16], HOST, 17, 0, &udp(port, b"bad"));
    let mut arp = vec![0xff; 6];
    arp.extend(MAC);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(MAC);
    arp.extend([10, 0, 2, 1, 0, 0, 0, 0, 0, 0, 10, 0, 2, 1]);
    for frame in [&other_mac, &other_ip, &arp, &good] {
        guest.send_frame(frame);
    }
    guest.until_stats(|stats| stats.spoofed == 3);
    let mut buffer = [0; 16];
    let count = server.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"good");
}

#[test]
fn the_guests_own_address_is_denied_whatever_the_rules_say() {
    let mut guest = Guest::with(config(), &["allow *", "allow 10.0.0.0/8"]);
    guest.send_frame(&v4_frame(OWN, OWN, 17, 0, &udp(9, b"x")));
    guest.event(|event| match event {
        Event::Denied { denial, .. } => denial.reason == Reason::Own,
        _ => false,
    });
    assert_eq!(guest.handle.stats().udp_opened, 0);
}

#[test]
fn fragments_are_put_together_and_overlapping_ones_dropped() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::new();
    let datagram = udp(port, &[7; 3000]);
    let more = 0x2000;
    let frame = |from: usize, to: usize, more: u16| {
        let place = u16::try_from(from / 8).unwrap() | more;
        v4_frame(OWN, HOST, 17, place, &datagram[from..to])
    };
    guest.send_frame(&frame(0, 1600, more));
    guest.send_frame(&frame(1592, 3008, 0));
    guest.until_stats(|stats| stats.fragments_dropped == 1);
    let other = |from: usize, to: usize, more: u16| {
        let mut frame = frame(from, to, more);
        frame[19] = 10;
        frame[24..26].fill(0);
        let check = sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame
    };
    guest.send_frame(&other(1600, 3008, 0));
    guest.send_frame(&other(0, 1600, more));
    guest.work();
    let mut buffer = [0; 4000];
    assert_eq!(server.recv(&mut buffer).unwrap(), 3000);
    assert_eq!(buffer[..3000], [7; 3000]);
}

/// A frame of a kind with a header that is right, before it is damaged.
fn seed_frame(random: &mut Random) -> Vec<u8> {
    let destinations = [
        HOST,
        [10, 0, 2, 1],
        [10, 0, 2, 2],
        [8, 8, 8, 8],
        [255; 4],
        [224, 0, 0, 1],
    ];
    let destination = destinations[random.below(destinations.len())];
    let data: Vec<u8> = (0..random.below(200)).map(|_| random.byte()).collect();
    let place = match random.below(4) {
        0 => u16::try_from(random.below(0x4000)).unwrap(),
        _ => 0,
    };
    let ports = [1u16, 53, 80, 443];
    let port = ports[random.below(ports.len())];
    match random.below(7) {
        0 => v4_frame(OWN, destination, 17, place, &udp(port, &data)),
        1 => {
            let mut segment = vec![0x30, 0x39];
            segment.extend(port.to_be_bytes());
            segment.extend([0; 8]);
            segment.extend([0x50, random.byte(), 0xff, 0xff, 0, 0, 0, 0]);
            segment.extend(&data);
            v4_frame(OWN, destination, 6, place, &segment)
        }
        2 => {
            let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
            message.extend(&data);
            let check = sum(&message);
            message[2..4].copy_from_slice(&check.to_be_bytes());
            v4_frame(OWN, destination, 1, place, &message)
        }
        3 => {
            let mut frame = vec![0xff; 6];
            frame.extend(MAC);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(MAC);
            frame.extend(OWN);
            frame.extend([0; 6]);
            frame.extend(destination);
            frame
        }
        4 | 5 => {
            let mut frame = GATEWAY.to_vec();
            frame.extend(MAC);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            let next = [6, 17, 58, 44, 0, 43, 59, 60];
            frame.extend([next[random.below(next.len())], 255]);
            frame.extend([0xfd, 0, 0xc0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 15]);
            frame.extend([0xfd, 0, 0xc0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend(data);
            frame
        }
        _ => data,
    }
}

#[test]
fn a_flood_of_damaged_frames_harms_nothing() {
    let mut guest = Guest::new();
    let mut random = Random(12);
    for _ in 0..60_000 {
        let mut frame = seed_frame(&mut random);
        for _ in 0..random.below(4) {
            if frame.is_empty() {
                break;
            }
            let at = random.below(frame.len());
            match random.below(3) {
                0 => frame[at] = random.byte(),
                1 => frame.truncate(at),
                _ => frame.insert(at, random.byte()),
            }
        }
        guest.send_frame(&frame);
        while guest.link.next_frame().is_some() {}
    }
    // The stack still serves: its thread lives, and its flows are within their bounds.
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    guest.send_frame(&v4_frame(OWN, HOST, 17, 0, &udp(port, b"alive")));
    guest.link.io_flush();
    let mut buffer = [0; 16];
    assert_eq!(server.recv(&mut buffer).unwrap(), 5);
    let stats = guest.handle.stats();
    assert!(
        stats.malformed > 1000 && stats.ignored > 100 && stats.denied > 100,
        "{stats:?}"
    );
    assert!(
        stats.udp_flows <= 1024 && stats.icmp_flows <= 64,
        "{stats:?}"
    );
}

#[test]
fn a_flood_of_syns_is_answered_within_the_limit() {
    let mut config = config();
    config.limits.tcp_flows = 50;
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for number in 1..20_000u16 {
        let mut segment = number.to_be_bytes().to_vec();
        segment.extend(port.to_be_bytes());
        segment.extend([0; 8]);
        segment.extend([0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        guest.send_frame(&v4_frame(OWN, HOST, 6, 0, &segment));
        while guest.link.next_frame().is_some() {}
    }
    guest.until_stats(|stats| stats.rx_frames >= 19_999);
    let stats = guest.handle.stats();
    assert!(
        stats.tcp_flows <= 50 && stats.flows_refused > 10_000,
        "{stats:?}"
    );
}

#[test]
fn a_guest_that_may_reach_nothing_opens_no_socket_of_the_host() {
    let policy = cofferdam_net::Policy::new(cofferdam_net::Profile::None, Vec::new());
    let mut config = config();
    let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
    resolver.set_nonblocking(true).unwrap();
    config.resolvers = vec![resolver.local_addr().unwrap()];
    let mut guest = Guest::with_policy(config, policy);
    let mut random = Random(99);
    for _ in 0..30_000 {
        let frame = seed_frame(&mut random);
        guest.send_frame(&frame);
        while guest.link.next_frame().is_some() {}
    }
    guest.link.io_flush();
    guest.until_stats(|stats| stats.rx_frames >= 30_000);
    let stats = guest.handle.stats();
    assert!(stats.denied > 3000, "{stats:?}");
    let opened = [stats.udp_opened, stats.connects_failed, stats.icmp_flows];
    assert_eq!(opened, [0; 3], "{stats:?}");
    // Only the gateway's own DNS has connections, and these are not of the host.
    let gateway = std::net::SocketAddr::from(([10, 0, 2, 1], 53));
    let flows = guest.handle.flows().unwrap();
    assert!(flows.iter().all(|flow| flow.remote == gateway), "{flows:?}");
    assert!(
        resolver.recv(&mut [0; 8]).is_err(),
        "a query left the stack"
    );
}
