//! Peers of published UDP ports, each seen by the guest as a port of the gateway.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    context::Context,
    policy::Protocol,
    slots::{Deadlines, Slot, Slots},
};

/// Ports of the gateway that stand for peers.
const FIRST_PORT: u16 = 32_768;
const LAST_PORT: u16 = 60_999;

#[derive(Debug)]
struct Peer {
    listener: Slot,
    address: SocketAddr,
    port: u16,
    opened: Instant,
    used: Instant,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Peers {
    peers: Slots<Peer>,
    by_address: HashMap<(Slot, SocketAddr), Slot>,
    by_port: HashMap<u16, Slot>,
    deadlines: Deadlines,
    next_port: u16,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            peers: Slots::default(),
            by_address: HashMap::new(),
            by_port: HashMap::new(),
            deadlines: Deadlines::default(),
            next_port: FIRST_PORT,
        }
    }
}

impl Peers {
    /// The port that stands for `address`; none if there are too many peers.
    pub(super) fn port_of(
        &mut self,
        cx: &mut Context,
        listener: Slot,
        address: SocketAddr,
    ) -> Option<u16> {
        let key = (listener, address);
        if let Some(slot) = self.by_address.get(&key)
            && let Some(peer) = self.peers.get_mut(*slot)
        {
            peer.used = cx.now;
            return Some(peer.port);
        }
        let limit = cx.config.limits.udp_flows;
        if self.peers.len() >= limit {
            cx.events
                .flow_limit(cx.now, Protocol::Udp, limit, &cx.counters);
            return None;
        }
        let port = self.free_port()?;
        let peer = Peer {
            listener,
            address,
            port,
            opened: cx.now,
            used: cx.now,
        };
        let slot = self.peers.insert_with(|_| Ok::<_, ()>(peer)).ok()?;
        self.by_address.insert(key, slot);
        self.by_port.insert(port, slot);
        let ends = cx.now + cx.config.timeouts.udp_idle;
        self.deadlines.set(slot, None, Some(ends));
        cx.counters.udp_opened.one();
        cx.published_began();
        Some(port)
    }

    /// The listener and the address that `port` stands for.
    pub(super) fn by_port(&mut self, port: u16, now: Instant) -> Option<(Slot, SocketAddr)> {
        let peer = self.peers.get_mut(*self.by_port.get(&port)?)?;
        peer.used = now;
        Some((peer.listener, peer.address))
    }

    fn free_port(&mut self) -> Option<u16> {
        for _ in FIRST_PORT..=LAST_PORT {
            let port = self.next_port;
            self.next_port = if port == LAST_PORT {
                FIRST_PORT
            } else {
                port + 1
            };
            if !self.by_port.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Every peer: its listener, its address and its age.
    pub(super) fn list(&mut self, now: Instant) -> Vec<(Slot, SocketAddr, Duration)> {
        let slots = self.peers.slots();
        let peers = slots.into_iter().filter_map(|slot| {
            let peer = self.peers.get_mut(slot)?;
            let age = now.saturating_duration_since(peer.opened);
            Some((peer.listener, peer.address, age))
        });
        peers.collect()
    }

    /// Forgets every peer.
    pub(super) fn clear(&mut self, cx: &Context) {
        for slot in self.peers.slots() {
            self.forget(cx, slot);
        }
    }

    /// Forgets the peers of a listener.
    pub(super) fn remove_listener(&mut self, cx: &Context, listener: Slot) {
        for slot in self.peers.slots() {
            if self
                .peers
                .get_mut(slot)
                .is_some_and(|peer| peer.listener == listener)
            {
                self.forget(cx, slot);
            }
        }
    }

    /// Forgets a peer; its time fires once more and finds nothing.
    fn forget(&mut self, cx: &Context, slot: Slot) {
        if let Some(peer) = self.peers.remove(slot) {
            cx.published_ended();
            self.by_address.remove(&(peer.listener, peer.address));
            self.by_port.remove(&peer.port);
        }
    }

    /// Forgets the peers whose time is over.
    pub(super) fn turn(&mut self, cx: &Context) {
        while let Some(slot) = self.deadlines.pop(cx.now) {
            let Some(peer) = self.peers.get_mut(slot) else {
                continue;
            };
            let ends = peer.used + cx.config.timeouts.udp_idle;
            if ends > cx.now {
                self.deadlines.set(slot, None, Some(ends));
            } else {
                self.forget(cx, slot);
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }
}
