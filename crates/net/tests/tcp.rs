//! TCP through the stack: transfers, ends in every order, refusals, limits.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use cofferdam_net::{Event, Protocol, Reason};
use guest::{Guest, Random, check_pattern, config, pattern};
use smoltcp::{iface::SocketHandle, socket::tcp};

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A connection of the guest, and its other end on the host.
fn pair(guest: &mut Guest) -> (SocketHandle, TcpStream) {
    let (listener, address) = listen();
    let handle = guest.connect(address);
    let (stream, _) = listener.accept().unwrap();
    (handle, stream)
}

fn send_all(guest: &mut Guest, handle: SocketHandle, total: u64) {
    let mut sent = 0;
    let mut block = vec![0; 64 << 10];
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        while socket.can_send() && sent < total {
            let want = block.len().min(usize::try_from(total - sent).unwrap());
            pattern(sent, &mut block[..want]);
            sent += socket.send_slice(&block[..want]).unwrap() as u64;
        }
        (sent == total).then_some(())
    });
}

fn receive_all(guest: &mut Guest, handle: SocketHandle) -> u64 {
    receive_rest(guest, handle, 0)
}

/// Receives what follows the bytes that were received before; returns the count of all.
fn receive_rest(guest: &mut Guest, handle: SocketHandle, mut received: u64) -> u64 {
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
        (!socket.may_recv()).then_some(received)
    })
}

/// Bytes in each direction of a long transfer.
const LONG: u64 = 200 << 20;

fn transfers(mtu: usize, address: &str, total: u64) {
    let mut config = config();
    config.mtu = mtu;
    let mut guest = Guest::with(config, &["allow 127.0.0.1", "allow ::1"]);
    transfers_with(&mut guest, address, total);
}

fn transfers_with(guest: &mut Guest, address: &str, total: u64) {
    let listener = TcpListener::bind(address).unwrap();
    let handle = guest.connect(listener.local_addr().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = stream.try_clone().unwrap();
    let host_reads = thread::spawn(move || {
        let mut block = vec![0; 256 << 10];
        let mut received = 0;
        loop {
            let count = reader.read(&mut block).unwrap();
            if count == 0 {
                return received;
            }
            check_pattern(received, &block[..count]);
            received += count as u64;
        }
    });
    send_all(guest, handle, total);
    guest.tcp(handle).close();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::FinWait2).then_some(()));
    assert_eq!(host_reads.join().unwrap(), total);
    let host_writes = thread::spawn(move || {
        let mut block = vec![0; 64 << 10];
        let mut sent = 0;
        while sent < total {
            pattern(sent, &mut block);
            stream.write_all(&block).unwrap();
            sent += block.len() as u64;
        }
    });
    assert_eq!(receive_all(guest, handle), total);
    host_writes.join().unwrap();
    let stats = guest.handle.stats();
    assert_eq!((stats.tcp_up_bytes, stats.tcp_down_bytes), (total, total));
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

#[test]
fn long_transfers_arrive_byte_by_byte_with_large_frames() {
    transfers(65_520, "127.0.0.1:0", LONG);
}

#[test]
fn transfers_arrive_byte_by_byte_with_usual_frames() {
    transfers(1500, "127.0.0.1:0", LONG / 10);
}

#[test]
fn transfers_arrive_byte_by_byte_over_ipv6() {
    transfers(1500, "[::1]:0", LONG / 20);
}

#[test]
fn transfers_arrive_byte_by_byte_over_a_link_that_loses_and_reorders() {
    let mut guest = Guest::new();
    guest.link.lossy = Some(Random(5));
    transfers_with(&mut guest, "127.0.0.1:0", 1 << 20);
}

#[test]
fn the_guest_ends_first_and_the_host_answers_later() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    guest.tcp(handle).send_slice(b"question").unwrap();
    guest.tcp(handle).close();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::FinWait2).then_some(()));
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    stream.write_all(b"answer").unwrap();
    drop(stream);
    let mut answer = Vec::new();
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            let more = socket.recv(|data| (data.len(), data.to_vec())).unwrap();
            answer.extend(more);
        }
        (!socket.may_recv()).then_some(())
    });
    assert_eq!(answer, b"answer");
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

#[test]
fn data_behind_a_closed_window_arrives_after_both_sides_have_ended() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    guest.tcp(handle).close();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::FinWait2).then_some(()));
    // More than the guest's window, and the end, before the guest reads a byte.
    let mut block = vec![0; 700 << 10];
    pattern(0, &mut block);
    stream.write_all(&block).unwrap();
    drop(stream);
    guest.until_stats(|stats| stats.tcp_down_bytes == 700 << 10);
    guest.until(|guest| (guest.tcp(handle).recv_queue() == 256 << 10).then_some(()));
    let mut first = vec![0; 256 << 10];
    let start = std::time::Instant::now();
    let count = guest.tcp(handle).recv_slice(&mut first).unwrap();
    guest.until(|guest| guest.tcp(handle).can_recv().then_some(()));
    // A probe of the window would take a second. The rest may take its time on a busy host.
    assert!(start.elapsed() < Duration::from_millis(900));
    check_pattern(0, &first[..count]);
    assert_eq!(receive_rest(&mut guest, handle, count as u64), 700 << 10);
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

#[test]
fn the_host_ends_first_and_the_guest_answers_later() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::CloseWait).then_some(()));
    let question = guest.tcp(handle).recv(|data| (data.len(), data.to_vec()));
    assert_eq!(question.unwrap(), b"question");
    guest.tcp(handle).send_slice(b"answer").unwrap();
    guest.tcp(handle).close();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

/// A socket of TCP with a port, which does not listen.
fn bound() -> (OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap();
    (socket, SocketAddr::try_from(address).unwrap())
}

#[test]
fn a_refused_connect_is_a_reset_at_once() {
    let mut guest = Guest::new();
    // A socket that does not listen refuses, and keeps the port from others.
    let (_bound, address) = bound();
    let handle = guest.begin_connect(address, 4096);
    assert!(!guest.connected(handle));
    guest.until_stats(|stats| (stats.connects_failed, stats.tcp_flows) == (1, 0));
}

#[test]
fn the_guests_syn_is_answered_only_when_the_host_is_connected() {
    let mut config = config();
    config.timeouts.connect = Duration::from_millis(200);
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    // A listener whose backlog is full leaves a connect without an answer.
    let (full, address) = bound();
    rustix::net::listen(&full, 0).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    guest.begin_connect(address, 4096);
    // The time-out is reported by an ICMP error: host unreachable.
    let frame = guest.icmp_error();
    assert_eq!(frame[34..36], [3, 1]);
    // The kernel of a guest may pass over it, so a reset follows.
    let is_reset = |frame: &[u8]| frame[23] == 6 && frame[47] & 4 != 0;
    guest.frame(|frame| frame.len() >= 54 && is_reset(frame));
    guest.until_stats(|stats| (stats.connects_failed, stats.tcp_flows) == (1, 0));
}

#[test]
fn a_reset_of_the_host_reaches_the_guest() {
    let mut guest = Guest::new();
    let (handle, stream) = pair(&mut guest);
    let linger = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
    drop(stream);
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

#[test]
fn what_the_host_sent_before_it_failed_reaches_the_guest() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    // More than the guest's window, all of it in the stack, before the guest reads a byte.
    let total = 400 << 10;
    let mut block = vec![0; total];
    pattern(0, &mut block);
    stream.write_all(&block).unwrap();
    guest.until_stats(|stats| stats.tcp_down_bytes == total as u64);
    // A server that answers before it has read all of the request, and closes.
    guest.tcp(handle).send_slice(b"unread").unwrap();
    guest.until(|_| (stream.peek(&mut [0; 8]).unwrap() > 0).then_some(()));
    drop(stream);
    guest.tcp(handle).send_slice(b"more").unwrap();
    guest.until_stats(|stats| stats.tcp_up_bytes >= 6);
    assert_eq!(receive_all(&mut guest, handle), total as u64);
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    guest.until_stats(|stats| stats.tcp_flows == 0);
}

#[test]
fn a_reset_of_the_guest_reaches_the_host() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    guest.tcp(handle).abort();
    guest.until_stats(|stats| stats.tcp_flows == 0);
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_host_that_stops_reading_closes_the_guests_window() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    let mut sent = 0u64;
    let mut block = vec![0; 64 << 10];
    // Until nothing has moved for a while: all buffers on the way are full.
    let mut still = 0;
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        let before = sent;
        while socket.can_send() {
            pattern(sent, &mut block);
            sent += socket.send_slice(&block).unwrap() as u64;
        }
        still = if sent == before { still + 1 } else { 0 };
        (still == 40).then_some(())
    });
    // Our buffer, and those of the two sockets; all of them are bounded.
    assert!(sent < 64 << 20, "{sent}");
    guest.tcp(handle).close();
    let reads = thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        check_pattern(0, &all);
        all.len() as u64
    });
    guest.until_stats(|stats| stats.tcp_up_bytes > 0 && stats.tcp_flows == 0);
    assert_eq!(reads.join().unwrap(), sent);
}

#[test]
fn a_guest_that_stops_reading_holds_the_host_up() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0u64;
    let mut still = 0;
    let mut block = vec![0; 64 << 10];
    guest.until(|_| {
        let before = sent;
        pattern(sent, &mut block);
        while let Ok(count) = stream.write(&block) {
            sent += count as u64;
            pattern(sent, &mut block);
        }
        still = if sent == before { still + 1 } else { 0 };
        (still == 40).then_some(())
    });
    assert!(sent < 64 << 20, "{sent}");
    drop(stream);
    assert_eq!(receive_all(&mut guest, handle), sent);
}

#[test]
fn a_thousand_quick_connections_leave_nothing() {
    let mut guest = Guest::new();
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        for _ in 0..1000 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"x").unwrap();
        }
    });
    for _ in 0..100 {
        let handles: Vec<_> = (0..10)
            .map(|_| guest.begin_connect(address, 4096))
            .collect();
        for handle in handles {
            guest.until(|guest| {
                let socket = guest.tcp(handle);
                assert_ne!(socket.state(), tcp::State::Closed);
                socket.can_recv().then_some(())
            });
            guest.tcp(handle).abort();
            guest.work();
            guest.sockets.remove(handle);
        }
    }
    server.join().unwrap();
    guest.until_stats(|stats| stats.tcp_flows == 0 && stats.tcp_opened == 1000);
}

#[test]
fn flows_past_the_limit_are_refused_and_reported() {
    let mut config = config();
    config.limits.tcp_flows = 5;
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let (_listener, address) = listen();
    let handles: Vec<_> = (0..5).map(|_| guest.connect(address)).collect();
    let refused = guest.begin_connect(address, 4096);
    assert!(!guest.connected(refused));
    guest.event(|event| {
        matches!(
            event,
            Event::FlowLimit {
                protocol: Protocol::Tcp,
                limit: 5
            }
        )
    });
    guest.tcp(handles[0]).abort();
    guest.until_stats(|stats| stats.tcp_flows == 4);
    guest.connect(address);
}

#[test]
fn a_denied_syn_is_reset_and_the_event_has_the_rule_that_allows_it() {
    let mut guest = Guest::with(config(), &[]);
    let (listener, address) = listen();
    let handle = guest.begin_connect(address, 4096);
    assert!(!guest.connected(handle));
    let event = guest.event(|event| matches!(event, Event::Denied { .. }));
    let Event::Denied {
        destination,
        denial,
        ..
    } = event
    else {
        panic!("another event");
    };
    assert_eq!(destination, address);
    assert!(matches!(denial.reason, Reason::Reserved(_)));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a connection left the stack");
    let rule = format!("allow {}", denial.allow).parse().unwrap();
    guest
        .handle
        .set_policy(cofferdam_net::Profile::Public, vec![rule], Vec::new())
        .unwrap();
    guest.connect(address);
}

#[test]
fn the_hosts_loopback_is_reached_by_its_own_address_where_a_rule_says_so() {
    let (listener, address) = listen();
    let rule = format!("allow host:{}", address.port());
    let mut guest = Guest::with(config(), &[&rule]);
    let host = guest.config.v4.unwrap().host;
    let handle = guest.connect(SocketAddr::new(host.into(), address.port()));
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    guest.until(|guest| guest.tcp(handle).can_recv().then_some(()));
    let refused = guest.begin_connect(SocketAddr::new(host.into(), address.port() ^ 1), 4096);
    assert!(!guest.connected(refused));
    let refused = guest.begin_connect(address, 4096);
    assert!(!guest.connected(refused), "127.0.0.1 itself is open");
}

#[test]
fn a_segment_of_no_flow_is_reset() {
    let mut guest = Guest::new();
    let (handle, _stream) = pair(&mut guest);
    guest.handle.reset_flows().unwrap();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    assert_eq!(guest.handle.stats().tcp_flows, 0);
}

#[test]
fn an_idle_stack_does_not_wake_up() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    stream.write_all(b"x").unwrap();
    guest.until(|guest| guest.tcp(handle).can_recv().then_some(()));
    // Time, on purpose: acknowledgements are over after this, and then nothing may happen.
    thread::sleep(Duration::from_millis(100));
    guest.work();
    // Time, on purpose: the same for the guest's own.
    thread::sleep(Duration::from_millis(100));
    let before = guest.handle.stats().wake_ups;
    // Time, on purpose: an idle second.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(guest.handle.stats().wake_ups, before);
}

#[test]
fn many_flows_share_the_bytes_of_buffers_and_all_of_them_move() {
    let mut config = config();
    config.limits.tcp_buffer_bytes = 1 << 20;
    let mut guest = Guest::with(config, &["allow 127.0.0.1"]);
    let (listener, address) = listen();
    let handles: Vec<_> = (0..200)
        .map(|_| guest.begin_connect(address, 4096))
        .collect();
    let mut streams = Vec::new();
    for handle in &handles {
        assert!(guest.connected(*handle));
        streams.push(listener.accept().unwrap().0);
    }
    // More than the smallest buffer, so that every flow needs its window to open again.
    let server = thread::spawn(move || {
        for stream in &mut streams {
            stream.write_all(&[7; 30_000]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        streams
    });
    for handle in handles {
        let mut received = 0;
        guest.until(|guest| {
            let socket = guest.tcp(handle);
            while socket.can_recv() {
                received += socket.recv(|data| (data.len(), data.len())).unwrap();
            }
            (received == 30_000).then_some(())
        });
    }
    drop(server.join().unwrap());
}

#[test]
fn a_list_of_flows_has_their_ends_and_bytes() {
    let mut guest = Guest::new();
    let (listener, address) = listen();
    let handle = guest.connect(address);
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).send_slice(b"12345").unwrap();
    guest.until_stats(|stats| stats.tcp_up_bytes == 5);
    stream.read_exact(&mut [0; 5]).unwrap();
    let flows = guest.handle.flows().unwrap();
    assert_eq!(flows.len(), 1);
    assert_eq!(
        (flows[0].remote, flows[0].protocol),
        (address, Protocol::Tcp)
    );
    assert!(flows[0].established);
    assert_eq!((flows[0].up_bytes, flows[0].down_bytes), (5, 0));
}

#[test]
fn a_new_identity_resets_what_was_and_serves_what_comes() {
    let mut guest = Guest::new();
    let (handle, mut stream) = pair(&mut guest);
    let mut config = guest.config.clone();
    config.v4.as_mut().unwrap().guest = "10.0.2.16".parse().unwrap();
    let mut wrong = config.clone();
    wrong.mtu = 1;
    assert!(guest.handle.configure(wrong).is_err());
    guest.handle.configure(config).unwrap();
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let (_listener, address) = listen();
    let old = guest.begin_connect(address, 4096);
    guest.until_stats(|stats| stats.spoofed > 0);
    assert_ne!(guest.tcp(old).state(), tcp::State::Established);
    guest.readdress("10.0.2.16".parse().unwrap());
    guest.connect(address);
}
