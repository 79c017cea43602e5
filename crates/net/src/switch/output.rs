//! Connections of this stack to members, and the packets that wait for them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use super::{Peer, is_gone, socket::connect_to};
use crate::{
    poller::{Owner, Poller, Ready},
    slots::{Slot, Slots},
};

/// Bytes of packets that wait for one member, and for all of them.
const QUEUE_BYTES: usize = 2 << 20;
const ALL_QUEUES_BYTES: usize = 8 << 20;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Yes,
    /// It was dropped: the member does not read, or the host has no memory for it.
    Full,
    /// The member does not run.
    Nobody,
}

/// How a member is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) to: Peer,
    /// The directory of the network's sockets.
    pub(super) dir: &'a Path,
    /// The sender's number.
    pub(super) own: u32,
    /// Connections at a time. The one that was used the longest time ago makes room.
    pub(super) most: usize,
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    to: Peer,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    used: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    slots: Slots<Output>,
    by_peer: HashMap<Peer, Slot>,
    /// Bytes in all queues.
    queued: usize,
    clock: u64,
    /// Packets that were dropped after they had waited.
    pub(super) dropped: u64,
}

impl Outputs {
    /// Sends a packet to a member by the way `to`.
    pub(super) fn send(&mut self, poller: &Poller, to: Way<'_>, packet: &[u8]) -> Sent {
        // The second try is for a member that has started again since.
        for _ in 0..2 {
            let slot = match self.connected(poller, to) {
                Ok(slot) => slot,
                Err(sent) => return sent,
            };
            if let Some(sent) = self.push(slot, packet) {
                return sent;
            }
        }
        Sent::Nobody
    }

    /// Whether a member listens.
    pub(super) fn is_connected(&mut self, poller: &Poller, to: Way<'_>) -> bool {
        // One whose queue of connections is full runs.
        self.connected(poller, to) != Err(Sent::Nobody)
    }

    fn connected(&mut self, poller: &Poller, way: Way<'_>) -> Result<Slot, Sent> {
        let to = way.to;
        if let Some(slot) = self.by_peer.get(&to) {
            return Ok(*slot);
        }
        let refused = |error: io::Error| match is_gone(&error) {
            true => Sent::Nobody,
            // Its backlog is full, or this process has no descriptor left.
            false => Sent::Full,
        };
        let fd = connect_to(way.dir, way.own, to.1).map_err(refused)?;
        while self.slots.len() >= way.most.max(1) {
            self.make_room();
        }
        let slot = self.slots.insert_with(|slot| {
            poller
                .add(&fd, Owner::SwitchOutput, slot)
                .map_err(refused)?;
            Ok(Output {
                fd,
                to,
                queue: VecDeque::new(),
                queued: 0,
                used: 0,
            })
        })?;
        self.by_peer.insert(to, slot);
        Ok(slot)
    }

    fn make_room(&mut self) {
        let slots = self.slots.slots().into_iter();
        let used = slots.filter_map(|slot| Some((self.slots.get_mut(slot)?.used, slot)));
        if let Some((_, oldest)) = used.min() {
            self.remove(oldest);
        }
    }

    /// Sends or queues a packet; `None` if the connection has ended.
    fn push(&mut self, slot: Slot, packet: &[u8]) -> Option<Sent> {
        self.clock += 1;
        let output = self.slots.get_mut(slot)?;
        output.used = self.clock;
        if output.queue.is_empty() {
            match send_now(&output.fd, packet) {
                Ok(()) => return Some(Sent::Yes),
                Err(Errno::AGAIN) => {}
                // No room in the socket will be reported for this one.
                Err(Errno::NOBUFS | Errno::NOMEM) => return Some(Sent::Full),
                Err(_) => {
                    self.remove(slot);
                    return None;
                }
            }
        }
        if output.queued + packet.len() > QUEUE_BYTES
            || self.queued + packet.len() > ALL_QUEUES_BYTES
        {
            return Some(Sent::Full);
        }
        output.queued += packet.len();
        self.queued += packet.len();
        output.queue.push_back(packet.to_vec());
        Some(Sent::Yes)
    }

    /// A connection has room, or has ended: a member sends nothing on it.
    pub(super) fn ready(&mut self, slot: Slot, ready: Ready) {
        if ready.read {
            return self.remove(slot);
        }
        let Some(output) = self.slots.get_mut(slot) else {
            return;
        };
        while let Some(packet) = output.queue.front() {
            match send_now(&output.fd, packet) {
                Ok(()) => {}
                Err(Errno::AGAIN) => return,
                Err(Errno::NOBUFS | Errno::NOMEM) => self.dropped += 1,
                Err(_) => return self.remove(slot),
            }
            output.queued -= packet.len();
            self.queued -= packet.len();
            output.queue.pop_front();
        }
    }

    /// Forgets every connection on a port.
    pub(super) fn forget(&mut self, port: u32) {
        let all = self.by_peer.iter();
        let gone: Vec<Slot> = all
            .filter(|(peer, _)| peer.0 == port)
            .map(|(_, slot)| *slot)
            .collect();
        gone.into_iter().for_each(|slot| self.remove(slot));
    }

    fn remove(&mut self, slot: Slot) {
        if let Some(output) = self.slots.remove(slot) {
            self.queued -= output.queued;
            self.by_peer.remove(&output.to);
        }
    }
}

/// Gives the packet to the kernel, which takes all of it or nothing.
fn send_now(fd: &OwnedFd, packet: &[u8]) -> Result<(), Errno> {
    loop {
        match send(fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}
