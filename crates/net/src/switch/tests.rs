//! Tests of a switch with other ends that are not stacks.

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use super::*;
use crate::{
    named::tests::network,
    poller::Ready,
    switch::socket::{connect_to, seqpacket},
};

const OWN: u32 = 7;

fn joined(dir: &std::path::Path, connections: usize) -> (Poller, Switch) {
    let (poller, mut switch) = (Poller::new().unwrap(), Switch::new(connections));
    let network = network(OWN, dir.to_owned());
    switch.join(&poller, network).unwrap();
    (poller, switch)
}

fn wake() -> Wake {
    Wake {
        owner: Owner::SwitchListener,
        slot: Slot {
            index: 0,
            generation: 0,
        },
        ready: Ready {
            read: true,
            write: false,
        },
    }
}

fn say(fd: &std::os::fd::OwnedFd, packet: &[u8]) -> rustix::io::Result<usize> {
    send(fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

#[test]
fn a_listener_that_fails_rests_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (poller, mut switch) = joined(dir.path(), 10);
    let now = Instant::now();
    // It fails each time, as it would without a descriptor.
    let broken = seqpacket().unwrap();
    let port = switch.ports.get_mut(&0).unwrap();
    let listener = std::mem::replace(&mut port.listener.fd, broken);
    switch.ready(&poller, now, wake());
    assert_eq!(switch.deadline(), Some(now + REST));
    switch.ports.get_mut(&0).unwrap().listener.fd = listener;
    poller.remove(&switch.ports.get(&0).unwrap().listener.fd);
    switch.turn(&poller, now + REST / 2);
    assert_eq!(switch.deadline(), Some(now + REST));
    switch.turn(&poller, now + REST);
    assert_eq!(switch.deadline(), None);
    let member = connect_to(dir.path(), 8, OWN).unwrap();
    say(&member, b"packet").unwrap();
    let mut wakes = Vec::new();
    poller.wait(None, &mut wakes).unwrap();
    assert_eq!(wakes[0].owner, Owner::SwitchListener);
    switch.ready(&poller, now, wakes[0]);
    assert_eq!(switch.receive(), Some(((0, 8), 6)));
}

#[test]
fn a_connection_ends_with_a_packet_that_is_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let (poller, mut switch) = joined(dir.path(), 10);
    let bad = connect_to(dir.path(), 8, OWN).unwrap();
    let good = connect_to(dir.path(), 9, OWN).unwrap();
    say(&bad, &[0; 65_536]).unwrap();
    say(&bad, b"more").unwrap();
    say(&good, b"packet").unwrap();
    switch.ready(&poller, Instant::now(), wake());
    assert_eq!(switch.receive(), Some(((0, 9), 6)));
    assert_eq!(switch.receive(), None);
    assert!(matches!(
        say(&bad, b"more"),
        Err(Errno::PIPE | Errno::CONNRESET)
    ));
    say(&good, b"packet").unwrap();
}

#[test]
fn the_oldest_connection_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    // One to members, and four from members.
    let (poller, mut switch) = joined(dir.path(), 5);
    let members: Vec<_> = (10..15)
        .map(|number| connect_to(dir.path(), number, OWN).unwrap())
        .collect();
    switch.ready(&poller, Instant::now(), wake());
    assert_eq!(say(&members[0], b"packet"), Err(Errno::PIPE));
    for member in &members[1..] {
        say(member, b"packet").unwrap();
    }
    let from: Vec<u32> = std::iter::from_fn(|| switch.receive())
        .map(|((_, from), _)| from)
        .collect();
    assert_eq!(from, [11, 12, 13, 14]);
}
