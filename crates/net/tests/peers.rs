//! Guests on one named network: what they send each other, and what no member can do.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use cofferdam_net::{Addresses, Directory, Event, Member, NamedNetwork, Policy, Profile};
use guest::{Guest, check_pattern, config, pattern, rules};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::RecordType,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, bind, connect, listen, recv,
    send, socket,
};
use smoltcp::socket::tcp;

#[derive(Debug)]
struct Fixed(Arc<[Member]>);

impl Directory for Fixed {
    fn members(&self) -> Arc<[Member]> {
        Arc::clone(&self.0)
    }
}

/// The members of every test: 2 and 4 share an alias.
fn members() -> Arc<[Member]> {
    let member = |number, names: &[&str]| Member {
        number,
        names: names.iter().map(ToString::to_string).collect(),
    };
    Arc::new([
        member(2, &["one", "web"]),
        member(3, &["two", "db", "two.example"]),
        member(4, &["three", "web"]),
    ])
}

fn network(dir: &Path, number: u32) -> NamedNetwork {
    NamedNetwork {
        name: "lan".to_owned(),
        v4: (Ipv4Addr::new(198, 19, 7, 0), 24),
        v6: "fd63:6f66:6665:7::".parse().unwrap(),
        number,
        internal: false,
        sockets: dir.to_owned(),
        directory: Arc::new(Fixed(members())),
    }
}

fn member(dir: &Path, number: u32, rule: &[&str]) -> Guest {
    let mut config = config();
    config.mtu = 65_520;
    config.v4 = Some(Addresses {
        guest: Ipv4Addr::new(198, 18, 0, 3),
        gateway: Ipv4Addr::new(198, 18, 0, 1),
        host: Ipv4Addr::new(198, 18, 0, 2),
    });
    config.networks = vec![network(dir, number)];
    // The profile is about others: members are reached with each.
    Guest::with_policy(config, Policy::new(Profile::None, rules(rule)))
}

fn place(number: u8, port: u16, v6: bool) -> SocketAddr {
    let address: IpAddr = match v6 {
        false => Ipv4Addr::new(198, 19, 7, number).into(),
        true => format!("fd63:6f66:6665:7::{number:x}").parse().unwrap(),
    };
    SocketAddr::new(address, port)
}

/// A guest on a thread that accepts one connection after another, and sends back what it receives.
struct EchoServer {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    fn new(dir: &Path, number: u32, rule: &'static [&'static str]) -> Self {
        let (stop, stopped) = channel();
        let (ready, is_ready) = channel();
        let dir = dir.to_owned();
        let thread = thread::spawn(move || serve(member(&dir, number, rule), &ready, &stopped));
        is_ready.recv().unwrap();
        let thread = Some(thread);
        Self { stop, thread }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(mut guest: Guest, ready: &Sender<()>, stopped: &Receiver<()>) {
    let handle = guest.tcp_socket(1 << 20);
    let datagrams = guest.udp_socket(7);
    ready.send(()).unwrap();
    let mut room = vec![0; 65_536];
    while stopped.try_recv().is_err() {
        let socket = guest.tcp(handle);
        if !socket.is_open() {
            socket.listen(7).unwrap();
        }
        while socket.can_recv() && socket.send_capacity() - socket.send_queue() >= room.len() {
            let count = socket.recv_slice(&mut room).unwrap();
            socket.send_slice(&room[..count]).unwrap();
        }
        if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
            socket.close();
        }
        let received = guest.udp(datagrams).recv();
        if let Ok((data, meta)) = received.map(|(data, meta)| (data.to_vec(), meta)) {
            let _ = guest.udp(datagrams).send_slice(&data, meta.endpoint);
        }
        guest.work();
        guest.wait(Duration::from_millis(5));
    }
}

/// Sends `total` bytes to an echo server and checks what comes back.
fn exchange(guest: &mut Guest, to: SocketAddr, total: u64) {
    let handle = guest.connect(to);
    let (mut sent, mut received) = (0, 0);
    let mut room = vec![0; 65_536];
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        if sent < total && socket.can_send() {
            let most = usize::try_from(total - sent).unwrap().min(room.len());
            pattern(sent, &mut room[..most]);
            sent += u64::try_from(socket.send_slice(&room[..most]).unwrap()).unwrap();
            if sent == total {
                socket.close();
            }
        }
        if socket.can_recv() {
            let count = socket.recv_slice(&mut room).unwrap();
            check_pattern(received, &room[..count]);
            received += u64::try_from(count).unwrap();
        }
        (received == total).then_some(())
    });
}

/// Asks the gateway for a name.
fn look_up(guest: &mut Guest, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(name.parse().unwrap(), kind));
    let handle = guest.udp_socket(0x7000 + u16::try_from(name.len()).unwrap());
    let gateway = guest.config.v4.unwrap().gateway;
    let query = query.to_vec().unwrap();
    guest.send_to(handle, SocketAddr::new(gateway.into(), 53), &query);
    let (answer, _) = guest.receive_from(handle);
    guest.sockets.remove(handle);
    let answer = Message::from_vec(&answer).unwrap();
    let data = answer.answers.iter().map(|record| record.data.to_string());
    (answer.metadata.response_code, data.collect())
}

#[test]
fn guests_reach_each_other_byte_by_byte_over_both_families() {
    let dir = tempfile::tempdir().unwrap();
    let _server = EchoServer::new(dir.path(), 3, &[]);
    let mut guest = member(dir.path(), 2, &[]);
    for v6 in [false, true] {
        exchange(&mut guest, place(3, 7, v6), 4 << 20);
        let handle = guest.udp_socket(9000 + u16::from(v6));
        guest.send_to(handle, place(3, 7, v6), b"datagram");
        let received = guest.receive_from(handle);
        assert_eq!(received, (b"datagram".to_vec(), place(3, 7, v6)));
    }
}

#[test]
fn names_and_aliases_are_those_of_members_that_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = member(dir.path(), 2, &[]);
    let server = EchoServer::new(dir.path(), 3, &[]);
    let ok = |data: &str| (ResponseCode::NoError, vec![data.to_owned()]);
    for name in ["two.", "DB.", "two.lan.", "db.LAN.", "two.example.lan."] {
        assert_eq!(look_up(&mut guest, name, RecordType::A), ok("198.19.7.3"));
    }
    let aaaa = look_up(&mut guest, "two.", RecordType::AAAA);
    assert_eq!(aaaa, ok("fd63:6f66:6665:7::3"));
    let reverse = look_up(&mut guest, "3.7.19.198.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reverse, ok("two.lan."));
    // Of the two with this alias one runs: the guest itself.
    assert_eq!(look_up(&mut guest, "web.", RecordType::A), ok("198.19.7.2"));
    let _other = EchoServer::new(dir.path(), 4, &[]);
    let orders = [0; 2].map(|_| look_up(&mut guest, "web.", RecordType::A).1);
    assert_eq!(orders[0].len(), 2);
    assert_eq!(orders[0][0], orders[1][1]);
    drop(server);
    let gone = (ResponseCode::NXDomain, Vec::new());
    assert_eq!(look_up(&mut guest, "two.", RecordType::A), gone);
    assert_eq!(
        look_up(&mut guest, "3.7.19.198.in-addr.arpa.", RecordType::PTR),
        gone
    );
    assert_eq!(
        look_up(&mut guest, "9.7.19.198.in-addr.arpa.", RecordType::PTR),
        gone
    );
}

/// An IPv4 packet with a UDP datagram from `from` to `to`, without a checksum of UDP.
fn datagram(from: u8, to: u8, data: &[u8]) -> Vec<u8> {
    let total = u16::try_from(28 + data.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 9, 0, 0, 64, 17, 0, 0, 198, 19, 7, from, 198, 19, 7, to]);
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    packet.extend([0, 9, 0, 7]);
    packet.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(data);
    packet
}

/// A connection of the member `from` to the member `to`, as a stack that lies would make it.
fn raw(dir: &Path, from: &str, to: u32) -> OwnedFd {
    let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&fd, &SocketAddrUnix::new(dir.join(from)).unwrap()).unwrap();
    let to = dir.join(to.to_string());
    connect(&fd, &SocketAddrUnix::new(&to).unwrap()).unwrap();
    fd
}

#[test]
fn a_member_cannot_use_the_address_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = member(dir.path(), 2, &[]);
    let handle = guest.udp_socket(7);
    let liar = raw(dir.path(), "9-2", 2);
    let say = |packet: &[u8]| assert_eq!(send(&liar, packet, SendFlags::empty()), Ok(packet.len()));
    // The address of another, to another, to the link's address, and damaged ones.
    say(&datagram(3, 2, b"spoofed"));
    say(&datagram(9, 3, b"astray"));
    let mut to_link = datagram(9, 2, b"link");
    to_link[16..20].copy_from_slice(&[198, 18, 0, 3]);
    say(&to_link);
    say(&[0x45]);
    say(&datagram(9, 2, b"honest"));
    assert_eq!(guest.receive_from(handle).0, b"honest");
    let stats = guest.handle.stats();
    assert_eq!((stats.spoofed, stats.malformed), (2, 2));
    // A connection whose name says no member is closed.
    for name in ["x", "5-3", "2-2", "-2"] {
        let nobody = raw(dir.path(), name, 2);
        guest.until(
            |_| match recv(&nobody, &mut [0; 1][..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => Some(()),
                Err(rustix::io::Errno::AGAIN) => None,
                other => panic!("{name}: {other:?}"),
            },
        );
    }
    // The stack of the sender drops the packets of its own guest, too.
    for packet in [datagram(4, 3, b""), datagram(0, 3, b"")] {
        let mut frame = guest.config.gateway_mac.to_vec();
        frame.extend(guest.config.guest_mac);
        frame.extend([8, 0]);
        frame.extend(packet);
        guest.send_frame(&frame);
    }
    guest.until_stats(|stats| stats.spoofed == 4);
}

/// Resident memory of this process in bytes. *Source:* proc_pid_statm(5).
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_member_that_does_not_read_costs_packets_and_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    // It listens, and never accepts.
    let deaf = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&deaf, &SocketAddrUnix::new(dir.path().join("3")).unwrap()).unwrap();
    listen(&deaf, 8).unwrap();
    let _server = EchoServer::new(dir.path(), 4, &[]);
    let mut guest = member(dir.path(), 2, &[]);
    let before = resident();
    let mut frame = guest.config.gateway_mac.to_vec();
    frame.extend(guest.config.guest_mac);
    frame.extend([8, 0]);
    frame.extend(datagram(2, 3, &[7; 60_000]));
    for _ in 0..2000 {
        guest.send_frame(&frame);
    }
    guest.until_stats(|stats| stats.peers_dropped > 1900);
    assert!(resident() < before + (32 << 20), "{before} {}", resident());
    // Others are not held up.
    exchange(&mut guest, place(4, 7, false), 1 << 20);
}

#[test]
fn a_dead_member_is_reported_at_once_and_another_takes_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = member(dir.path(), 2, &[]);
    let server = EchoServer::new(dir.path(), 3, &[]);
    exchange(&mut guest, place(3, 7, false), 1000);
    drop(server);
    // A killed process leaves the name of its socket.
    let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&fd, &SocketAddrUnix::new(dir.path().join("3")).unwrap()).unwrap();
    drop(fd);
    let handle = guest.udp_socket(9);
    guest.send_to(handle, place(3, 7, false), b"x");
    guest.work();
    let error = guest.icmp_error();
    assert_eq!(error[34..36], [3, 1]);
    let _server = EchoServer::new(dir.path(), 3, &[]);
    exchange(&mut guest, place(3, 7, false), 1000);
}

#[test]
fn a_rule_denies_what_the_guest_begins_and_not_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let _server = EchoServer::new(dir.path(), 3, &["deny 198.19.7.0/24"]);
    for rule in ["deny db:7", "deny two.lan", "deny 198.19.7.3:7", "deny *"] {
        let mut guest = member(dir.path(), 2, &[rule]);
        let handle = guest.begin_connect(place(3, 7, false), 4096);
        assert!(!guest.connected(handle), "{rule}");
        let event = guest.event(|event| matches!(event, Event::Denied { .. }));
        assert_eq!(event.allow(), Some("198.19.7.3:7/tcp"));
        let datagrams = guest.udp_socket(9);
        guest.send_to(datagrams, place(3, 7, false), b"x");
        guest.work();
        assert_eq!(guest.icmp_error()[34..36], [3, 13]);
    }
    // The server's own rule denies it to begin, and it answers.
    let mut guest = member(dir.path(), 2, &["deny db:8", "allow db", "deny *"]);
    exchange(&mut guest, place(3, 7, false), 100_000);
}

#[test]
fn a_guest_joins_and_leaves_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = member(dir.path(), 2, &[]);
    let other = tempfile::tempdir().unwrap();
    let mut second = network(other.path(), 5);
    second.name = "other".to_owned();
    second.v4.0 = Ipv4Addr::new(198, 19, 8, 0);
    second.v6 = "fd63:6f66:6665:8::".parse().unwrap();
    guest.handle.join(second.clone()).unwrap();
    assert!(other.path().join("5").exists());
    let error = guest.handle.join(second).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    guest.handle.leave("other").unwrap();
    assert!(!other.path().join("5").exists());
    // One network's members are not reached on another.
    let handle = guest.udp_socket(9);
    guest.send_to(handle, place(5, 7, false), b"x");
    guest.work();
    assert_eq!(guest.icmp_error()[34..36], [3, 1]);
    // Nothing is left of the first when the stack has gone.
    drop(guest);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_a_guest_has_sent_before_it_leaves_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (member(dir.path(), 2, &[]), member(dir.path(), 3, &[]));
    let (from, to) = (one.udp_socket(9000), two.udp_socket(7));
    // The first one finds the way.
    one.send_to(from, place(3, 7, false), b"first");
    one.until_stats(|stats| stats.rx_frames >= 2);
    for number in 0..100 {
        let (data, _) = two.receive_from(to);
        assert!(number == 0 || data == [number - 1], "{data:?}");
        one.send_to(from, place(3, 7, false), &[number]);
        one.work();
        // The stack has the frame and the command at the same moment.
        one.handle.leave("lan").unwrap();
        one.handle.join(network(dir.path(), 2)).unwrap();
    }
}
