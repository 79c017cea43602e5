//! The stack against the kernel's TCP over a cable that loses, delays, reorders and doubles frames.
//!
//! A network namespace has a virtual cable (veth). The kernel has the guest's address at one end,
//! and its frames go from the other end by [`Cable`] to the stack. The stack's connections go to
//! the namespace's loopback. So the kernel is the guest and the server, and the stack is between.
//!
//! `COFFER_KERNEL_TCP_MIB` sets the MiB of the transfers over the lossy cable, each way.
#![allow(clippy::unwrap_used, reason = "a failure is a panic")]
#![allow(
    clippy::print_stdout,
    reason = "the times of transfers are for readers"
)]

mod cable;
#[path = "../guest/mod.rs"]
mod guest;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use cable::{Cable, Faults};
use cofferdam_net::{
    Config, Events, Handle, MAX_MTU, PacketSocket, Policy, Profile, Protocol, PublishSpec, Stack,
};
use guest::{check_pattern, pattern};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

/// Says that a test already runs in its namespace, with a packet socket as its standard input.
const INSIDE: &str = "COFFERDAM_NET_TEST_INSIDE";

/// The largest packets in bytes of a sandbox's link, and of others.
const LARGE: usize = MAX_MTU;
const USUAL: usize = 1500;

/// Makes the cable and starts the test. No segments are joined into larger frames than the link's.
/// Python is here because a packet socket cannot be bound without
/// unsafe code.
const NAMESPACE: &str = r#"
set -e
ip link set lo up
ip link add kernel mtu "$MTU" address 02:00:00:00:00:15 gso_max_segs 1 type veth peer name stack mtu "$MTU"
echo 1 > /proc/sys/net/ipv6/conf/kernel/disable_ipv6
echo 1 > /proc/sys/net/ipv6/conf/stack/disable_ipv6
ip addr add 10.0.2.15/24 dev kernel
ip link set kernel up
ip link set stack up
exec python3 -c '
import os, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("stack", 0))
os.dup2(s.fileno(), 0)
os.execv(sys.argv[1], sys.argv[1:])
' "$@"
"#;

/// In the namespace of `test`: true. Elsewhere: false, after the test has passed in its namespace
/// or was skipped.
fn is_inside(test: &str, mtu: usize) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let can = Command::new("unshare")
        .args(["-r", "-n", "sh", "-c"])
        .arg("ip link add v0 gso_max_segs 1 type veth peer name v1 && python3 -c 'import socket'")
        .output();
    if !can.is_ok_and(|output| output.status.success()) {
        cofferdam_testkit::skip("no virtual cable can be made here");
        return false;
    }
    let output = Command::new("unshare")
        .args(["-r", "-n", "sh", "-c", NAMESPACE, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .env("MTU", mtu.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
    println!("{text}");
    false
}

/// A stack with the kernel as its guest.
struct Rig {
    handle: Handle,
    stack: Option<thread::JoinHandle<cofferdam_net::Result<cofferdam_net::End>>>,
    cable: Cable,
}

impl Rig {
    fn new(mtu: usize, faults: Faults) -> Self {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let wire: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let policy = Policy::new(Profile::None, guest::rules(&["allow host"]));
        let io = Box::new(PacketSocket::new(theirs));
        let (events, _) = Events::channel();
        let mut config = Config::new(guest::MAC);
        config.mtu = mtu;
        let stack = Stack::new(config, io, policy, events).unwrap();
        Self {
            handle: stack.handle(),
            stack: Some(stack.spawn().unwrap()),
            cable: Cable::new([wire, ours], faults),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.stack.take().map(thread::JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap().unwrap();
        }
    }
}

/// A connection of the guest's kernel to `port` of the host, with buffers of `bytes` if any.
fn connect(port: u16, bytes: Option<usize>) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    if let Some(bytes) = bytes {
        sockopt::set_socket_recv_buffer_size(&socket, bytes).unwrap();
        sockopt::set_socket_send_buffer_size(&socket, bytes).unwrap();
    }
    let host = SocketAddr::new(Config::new(guest::MAC).v4.unwrap().host.into(), port);
    rustix::net::connect(&socket, &host).unwrap();
    TcpStream::from(socket)
}

/// Sends `total` bytes and the end, from a thread of its own.
fn send(mut stream: TcpStream, total: u64) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut block = vec![0; 64 << 10];
        let mut sent = 0;
        while sent < total {
            pattern(sent, &mut block);
            stream.write_all(&block).unwrap();
            sent += block.len() as u64;
        }
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

/// Reads to the end. Returns how many bytes came.
fn receive(mut stream: &TcpStream) -> u64 {
    let mut block = vec![0; 256 << 10];
    let mut received = 0;
    loop {
        let count = stream.read(&mut block).unwrap();
        if count == 0 {
            return received;
        }
        check_pattern(received, &block[..count]);
        received += count as u64;
    }
}

/// Sends `total` bytes up, and as many down on the same connection.
fn transfer(mtu: usize, faults: Faults, window: Option<usize>, total: u64) {
    let rig = Rig::new(mtu, faults);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let guest = connect(listener.local_addr().unwrap().port(), window);
    let (host, _) = listener.accept().unwrap();
    for (way, from, to) in [("up", &guest, &host), ("down", &host, &guest)] {
        let begin = Instant::now();
        let sender = send(from.try_clone().unwrap(), total);
        assert_eq!(receive(to), total, "{way}");
        sender.join().unwrap();
        println!("{way}: {total} bytes in {:?}", begin.elapsed());
    }
    println!("{} frames arrived", rig.cable.delivered());
}

/// Bytes over the lossy cable, each way.
fn lossy_bytes() -> u64 {
    let set = std::env::var("COFFER_KERNEL_TCP_MIB").ok();
    set.map_or(2, |mebibytes| mebibytes.parse().unwrap()) << 20
}

#[test]
fn a_twentieth_of_all_frames_is_lost_and_every_byte_arrives() {
    if is_inside(
        "a_twentieth_of_all_frames_is_lost_and_every_byte_arrives",
        LARGE,
    ) {
        let faults = Faults {
            lost: 50,
            ..Faults::default()
        };
        transfer(LARGE, faults, None, lossy_bytes());
    }
}

#[test]
fn frames_that_come_late_twice_and_in_another_order_change_nothing() {
    if is_inside(
        "frames_that_come_late_twice_and_in_another_order_change_nothing",
        USUAL,
    ) {
        let faults = Faults {
            lost: 5,
            doubled: 20,
            reordered: 100,
            delay: Duration::from_millis(5),
        };
        transfer(USUAL, faults, None, 2 << 20);
    }
}

#[test]
fn small_windows_and_losses_change_nothing() {
    if is_inside("small_windows_and_losses_change_nothing", USUAL) {
        let faults = Faults {
            lost: 10,
            ..Faults::default()
        };
        transfer(USUAL, faults, Some(4 << 10), 256 << 10);
    }
}

#[test]
fn a_published_port_is_reached_though_every_tenth_frame_is_lost() {
    if is_inside(
        "a_published_port_is_reached_though_every_tenth_frame_is_lost",
        USUAL,
    ) {
        let faults = Faults {
            lost: 100,
            ..Faults::default()
        };
        let rig = Rig::new(USUAL, faults);
        let listener = TcpListener::bind("10.0.2.15:0").unwrap();
        let port = rig.handle.publish(PublishSpec {
            protocol: Protocol::Tcp,
            host: "127.0.0.1:0".parse().unwrap(),
            guest_port: listener.local_addr().unwrap().port(),
        });
        let place = port.unwrap().host;
        for _ in 0..4 {
            let host = TcpStream::connect(place).unwrap();
            let (guest, _) = listener.accept().unwrap();
            let question = send(host.try_clone().unwrap(), 64 << 10);
            assert_eq!(receive(&guest), 64 << 10);
            let answer = send(guest, 64 << 10);
            assert_eq!(receive(&host), 64 << 10);
            question.join().unwrap();
            answer.join().unwrap();
        }
    }
}
