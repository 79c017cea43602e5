//! How much the stack moves: one TCP connection, one way, with a synthetic guest.
//!
//! `cargo run --release -p cofferdam-net --example throughput [MiB]` prints a table. The guest, the
//! stack and the host's end are three threads. On a machine with fewer free cores than that, the
//! column "per core" is the one to read: bytes in the time that the stack's own thread ran.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]
#![allow(clippy::print_stdout, reason = "the numbers are the output")]

#[path = "../tests/guest/mod.rs"]
mod guest;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use guest::{Guest, config};

/// Time that the stack's thread has run.
fn stack_time() -> Duration {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() == "net" {
            let stat = fs::read_to_string(path.join("schedstat")).unwrap();
            let nanos = stat.split_whitespace().next().unwrap().parse().unwrap();
            return Duration::from_nanos(nanos);
        }
    }
    Duration::ZERO
}

fn new_guest(mtu: usize) -> Guest {
    let mut config = config();
    config.mtu = mtu;
    Guest::with(config, &["allow 127.0.0.1"])
}

/// From the guest to the host.
fn up(mtu: usize, total: usize) -> (Duration, Duration) {
    let mut guest = new_guest(mtu);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.begin_connect(listener.local_addr().unwrap(), 2 << 20);
    assert!(guest.connected(handle));
    let (mut stream, _) = listener.accept().unwrap();
    let (start, before) = (Instant::now(), stack_time());
    let reads = thread::spawn(move || {
        let mut block = vec![0; 1 << 20];
        let mut received = 0;
        while received < total {
            received += stream.read(&mut block).unwrap();
        }
    });
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    while sent < total {
        let socket = guest.tcp(handle);
        if socket.can_send() {
            sent += socket.send_slice(&block).unwrap();
        }
        guest.work();
        if !guest.tcp(handle).can_send() {
            guest.wait(Duration::from_millis(100));
        }
    }
    guest.until(|_| reads.is_finished().then_some(()));
    (start.elapsed(), stack_time() - before)
}

/// From the host to the guest.
fn down(mtu: usize, total: usize) -> (Duration, Duration) {
    let mut guest = new_guest(mtu);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.begin_connect(listener.local_addr().unwrap(), 2 << 20);
    assert!(guest.connected(handle));
    let (mut stream, _) = listener.accept().unwrap();
    let (start, before) = (Instant::now(), stack_time());
    let writes = thread::spawn(move || {
        let block = vec![7; 1 << 20];
        let mut sent = 0;
        while sent < total {
            stream.write_all(&block).unwrap();
            sent += block.len();
        }
        stream
    });
    let mut received = 0;
    while received < total {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            received += socket.recv(|data| (data.len(), data.len())).unwrap();
        }
        guest.work();
        if !guest.tcp(handle).can_recv() {
            guest.wait(Duration::from_millis(100));
        }
    }
    let result = (start.elapsed(), stack_time() - before);
    drop(writes.join().unwrap());
    result
}

fn main() {
    let mib = std::env::args()
        .nth(1)
        .map_or(2048, |text| text.parse().unwrap());
    let total = mib << 20;
    println!("| direction | MTU | Gbit/s | Gbit/s per core of the stack |");
    println!("|---|---|---|---|");
    for mtu in [1500, 65_520] {
        for (name, run) in [
            ("guest to host", up as fn(usize, usize) -> _),
            ("host to guest", down),
        ] {
            let (wall, stack): (Duration, Duration) = run(mtu, total);
            let gigabits = total as f64 * 8.0 / 1e9;
            println!(
                "| {name} | {mtu} | {:.2} | {:.2} |",
                gigabits / wall.as_secs_f64(),
                gigabits / stack.as_secs_f64()
            );
        }
    }
}
