//! Published ports: connections and datagrams from the host into the guest.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    io::{ErrorKind as IoKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use cofferdam_net::{ErrorKind, Protocol, PublishSpec, PublishedPort, Rate};
use guest::{Guest, check_pattern, config, pattern};
use smoltcp::{iface::SocketHandle, socket::tcp};

fn publish(guest: &Guest, protocol: Protocol, host: &str, guest_port: u16) -> PublishedPort {
    let asked = PublishSpec {
        protocol,
        host: host.parse().unwrap(),
        guest_port,
    };
    guest.handle.publish(asked).unwrap()
}

/// A socket of the guest that listens on `port`.
fn listen(guest: &mut Guest, port: u16) -> SocketHandle {
    let handle = guest.tcp_socket(64 << 10);
    guest.tcp(handle).listen(port).unwrap();
    handle
}

#[test]
fn a_published_port_reaches_the_guest_both_ways() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let mut guest = Guest::with(config(), &[]);
        let port = publish(&guest, Protocol::Tcp, host, 8080);
        assert_ne!(port.host.port(), 0);
        assert_eq!(guest.handle.published().unwrap(), [port]);
        let handle = listen(&mut guest, 8080);
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(port.host).unwrap();
            let mut block = vec![0; 3 << 20];
            pattern(0, &mut block);
            stream.write_all(&block).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let mut received = 0;
        guest.until(|guest| {
            let socket = guest.tcp(handle);
            while socket.can_recv() {
                received += socket
                    .recv(|data| {
                        check_pattern(received, data);
                        (data.len(), data.len() as u64)
                    })
                    .unwrap();
            }
            (received == 3 << 20).then_some(())
        });
        let remote = guest.tcp(handle).remote_endpoint().unwrap();
        let gateway = guest.config.v4.unwrap().gateway;
        assert_eq!(remote.addr, std::net::IpAddr::from(gateway).into());
        guest.tcp(handle).send_slice(b"answer").unwrap();
        guest.tcp(handle).close();
        guest.until_stats(|stats| stats.tcp_flows == 0);
        assert_eq!(client.join().unwrap(), "answer");
    }
}

#[test]
fn a_guest_that_does_not_listen_resets_the_peer() {
    let mut guest = Guest::with(config(), &[]);
    let port = publish(&guest, Protocol::Tcp, "127.0.0.1:0", 8080);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(port.host).unwrap();
        stream.read(&mut [0; 8]).unwrap_err().kind()
    });
    guest.until(|_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), IoKind::ConnectionReset);
}

#[test]
fn a_guest_that_is_silent_resets_the_peer_after_the_time_out() {
    let mut config = config();
    config.timeouts.connect = Duration::from_millis(100);
    let guest = Guest::with(config, &[]);
    let port = publish(&guest, Protocol::Tcp, "127.0.0.1:0", 8080);
    let mut stream = TcpStream::connect(port.host).unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), IoKind::ConnectionReset);
}

#[test]
fn a_port_that_is_removed_is_closed_and_its_connections_go_on() {
    let mut guest = Guest::with(config(), &[]);
    let port = publish(&guest, Protocol::Tcp, "127.0.0.1:0", 8080);
    let handle = listen(&mut guest, 8080);
    let mut stream = TcpStream::connect(port.host).unwrap();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Established).then_some(()));
    guest.handle.unpublish(port.id).unwrap();
    assert!(TcpStream::connect(port.host).is_err());
    assert!(guest.handle.published().unwrap().is_empty());
    let again = guest.handle.unpublish(port.id).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotPublished);
    guest.tcp(handle).send_slice(b"still here").unwrap();
    guest.tcp(handle).close();
    guest.work();
    let reads = thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    guest.until(|_| reads.is_finished().then_some(()));
    assert_eq!(reads.join().unwrap(), "still here");
}

#[test]
fn a_taken_port_and_a_foreign_address_are_errors() {
    let guest = Guest::with(config(), &[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let kind = |host: SocketAddr, guest_port| {
        let asked = PublishSpec {
            protocol: Protocol::Tcp,
            host,
            guest_port,
        };
        guest.handle.publish(asked).unwrap_err().kind()
    };
    assert_eq!(kind(taken.local_addr().unwrap(), 80), ErrorKind::PortTaken);
    let foreign = "192.0.2.1:0".parse().unwrap();
    assert_eq!(kind(foreign, 80), ErrorKind::InvalidConfig);
    let any = "127.0.0.1:0".parse().unwrap();
    assert_eq!(kind(any, 0), ErrorKind::InvalidConfig);
}

#[test]
fn datagrams_of_many_peers_are_kept_apart() {
    let mut guest = Guest::with(config(), &[]);
    let port = publish(&guest, Protocol::Udp, "127.0.0.1:0", 5353);
    let handle = guest.udp_socket(5353);
    let peers: Vec<_> = (0..5u8)
        .map(|number| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.send_to(&[number], port.host).unwrap();
            socket
        })
        .collect();
    for _ in 0..5 {
        let (data, source) = guest.receive_from(handle);
        guest.send_to(handle, source, &[data[0], data[0]]);
    }
    for (number, peer) in (0..5u8).zip(&peers) {
        let mut answer = [0; 8];
        let (count, from) = guest.until(|_| peer.recv_from(&mut answer).ok());
        assert_eq!((&answer[..count], from), (&[number, number][..], port.host));
    }
    // A port of the gateway that stands for no peer is closed.
    let gateway = SocketAddr::new(guest.config.v4.unwrap().gateway.into(), 9);
    guest.send_to(handle, gateway, b"x");
    assert_eq!(guest.icmp_error()[34..36], [3, 3]);
}

#[test]
fn a_capture_has_every_frame_of_both_ways() {
    let mut guest = Guest::with(config(), &[]);
    let mut file = tempfile::tempfile().unwrap();
    let copy = file.try_clone().unwrap();
    guest.handle.capture(Some(copy)).unwrap();
    let port = publish(&guest, Protocol::Udp, "127.0.0.1:0", 5353);
    let handle = guest.udp_socket(5353);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.send_to(b"captured one", port.host).unwrap();
    let (_, source) = guest.receive_from(handle);
    guest.send_to(handle, source, b"captured two");
    let stats = guest.until(|guest| {
        let stats = guest.handle.stats();
        (stats.rx_frames >= 2).then_some(stats)
    });
    guest.handle.capture(None).unwrap();
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let mut frames = 0;
    let mut rest = &bytes[24..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*rest[8..].first_chunk().unwrap());
        rest = &rest[16 + usize::try_from(length).unwrap()..];
        frames += 1;
    }
    assert!(frames >= stats.rx_frames + stats.tx_frames);
    for text in [&b"captured one"[..], b"captured two"] {
        assert!(bytes.windows(text.len()).any(|window| window == text));
    }
}

/// Whether the kernel's timer of the connection at this local address is the one of keep-alive.
/// *Source:* Linux, Documentation/networking/proc_net_tcp.rst.
fn has_keepalive(local: SocketAddr) -> bool {
    let port = format!(":{:04X}", local.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let established = fields[1].ends_with(&port) && fields[3] == "01";
        established && fields[5].starts_with("02:")
    })
}

#[test]
fn the_sockets_of_a_flow_notice_a_peer_that_vanishes() {
    let mut guest = Guest::new();
    let server = guest.tcp_socket(4096);
    guest.tcp(server).listen(80).unwrap();
    let port = publish(&guest, Protocol::Tcp, "127.0.0.1:0", 80);
    let _peer = TcpStream::connect(port.host).unwrap();
    guest.until(|guest| guest.tcp(server).is_active().then_some(()));
    guest.until(|_| has_keepalive(port.host).then_some(()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    guest.connect(listener.local_addr().unwrap());
    let (_stream, ours) = listener.accept().unwrap();
    guest.until(|_| has_keepalive(ours).then_some(()));
}

#[test]
fn a_capture_that_ends_on_a_slow_disk_does_not_hold_the_stack_up() {
    let mut guest = Guest::with(config(), &[]);
    // A pipe without a reader stands for a disk that does not write.
    let (reader, writer) = std::io::pipe().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    guest.handle.capture(Some(file)).unwrap();
    let frame = [0xff; 1500];
    guest.until(|guest| {
        guest.send_frame(&frame);
        let dropped = guest.handle.stats().capture_dropped;
        (dropped > 0).then_some(())
    });
    let handle = guest.handle.clone();
    let ends = thread::spawn(move || handle.capture(None));
    // The stack takes a frame and has no capture for it any more.
    guest.until(|guest| {
        let before = guest.handle.stats();
        guest.send_frame(&frame);
        guest.link.io_flush();
        guest.until_stats(|stats| stats.rx_frames > before.rx_frames);
        let after = guest.handle.stats();
        (after.capture_dropped == before.capture_dropped).then_some(())
    });
    assert!(!ends.is_finished(), "the disk has written");
    drop(reader);
    ends.join().unwrap().unwrap();
}

/// Seconds for `bytes` from the host to the guest, or from the guest to the host.
fn seconds(rate: Rate, up: bool, bytes: usize) -> f64 {
    let mut config = config();
    config.rate = rate;
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.connect(listener.local_addr().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let start = std::time::Instant::now();
    let mut moved = 0;
    if up {
        let reads = thread::spawn(move || stream.read_exact(&mut vec![0; bytes]));
        guest.until(|guest| {
            while moved < bytes && guest.tcp(handle).can_send() {
                let block = vec![0; (bytes - moved).min(8192)];
                moved += guest.tcp(handle).send_slice(&block).unwrap();
            }
            reads.is_finished().then_some(())
        });
    } else {
        let writes = thread::spawn(move || stream.write_all(&vec![0; bytes]));
        guest.until(|guest| {
            while guest.tcp(handle).can_recv() {
                moved += guest
                    .tcp(handle)
                    .recv(|data| (data.len(), data.len()))
                    .unwrap();
            }
            (moved == bytes).then_some(())
        });
        writes.join().unwrap().unwrap();
    }
    start.elapsed().as_secs_f64()
}

#[test]
fn a_rate_limit_holds_each_direction_back() {
    let limited = Some(4 << 20);
    // Two MiB less the burst take at least 0.3 seconds.
    let up = Rate {
        up: limited,
        down: None,
    };
    assert!(seconds(up, true, 2 << 20) > 0.3);
    let down = Rate {
        up: None,
        down: limited,
    };
    assert!(seconds(down, false, 2 << 20) > 0.3);
}
