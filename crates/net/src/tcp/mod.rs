//! TCP: the guest's connections end here, and a socket of the host carries each on.
//!
//! smoltcp does the guest's side. Its usual form is one set of sockets, which it searches for each
//! packet and each turn: with a thousand flows, a thousand comparisons for a packet. And a socket
//! must listen before a SYN comes. Here a table finds the flow, each flow has a set with one
//! socket, and one interface in `any_ip` mode is passed from flow to flow. The SYN is kept until
//! the host's connect is over, and only then given to a listening socket. (smoltcp's feature
//! `socket-tcp-pause-synack` does that with a socket, and so with buffers, for each SYN of a flood,
//! and its timer is always due while it waits.)
//!
//! ```text
//!  guest's SYN                           connection to a published port
//!      │ policy allows                         │ SYN to the guest
//!      ▼                                       │
//!  Connecting ──connect succeeds: SYN-ACK──► Opening ──handshake done──► Relaying
//!      │                                       │                        │      │
//!      │ refused: RST                          │ guest resets           │      │ the host's side fails
//!      │ unreachable, too late: ICMP           │ or is silent           │      ▼
//!      ▼                                       ▼                        │   Failing
//!   removed                             host socket reset           ◄───┤      │ what came before is with
//!                                                                       │      │ the guest: RST is due
//!                                                                       │      ▼
//!                                                                       │  Resetting ──sent──► removed
//!                                                                       │
//!                         both directions ended, or the guest reset  ◄──┘
//! ```
//!
//! Each direction of `Relaying` ends by itself: the guest's FIN becomes a `shutdown` of the host's
//! socket after the last byte, and the end of the host's data becomes a FIN. There is no
//! congestion control towards the guest, because a local socket loses nothing; the kernel has its
//! own towards the network.
//!
//! Bounds: the number of flows, and the bytes of buffers, see [`Limits`](crate::config::Limits).

mod check;
mod connect;
mod device;
mod flow;
mod hello;
mod intercept;
mod open;
mod probe;
mod pump;
mod relay;
mod review;

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use smoltcp::{
    iface::{Config as InterfaceConfig, Interface},
    time::Instant as SmolInstant,
    wire::HardwareAddress,
};

use self::{
    device::Port,
    flow::{Flow, Key, State},
};
use crate::{
    context::{Context, Egress},
    policy::Protocol,
    poller::Ready,
    slots::{Deadlines, Slot, Slots},
    stats::FlowInfo,
    wire::{Packet, Segment, reset_for},
};

/// All TCP flows.
pub(crate) struct Tcp {
    interface: Interface,
    /// smoltcp counts its time from here.
    start: Instant,
    flows: Slots<Flow>,
    by_key: HashMap<Key, Slot>,
    deadlines: Deadlines,
    /// Flows to be looked at in this turn.
    due: Vec<Slot>,
    /// Flows that wait for room in the queue to the guest.
    stalled: Vec<Slot>,
    /// Bytes of all buffers.
    buffered: usize,
    /// Where the search for a port for a published connection begins.
    next_port: u16,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcp")
            .field("flows", &self.flows.len())
            .field("buffered", &self.buffered)
            .finish_non_exhaustive()
    }
}

impl Tcp {
    /// No flows yet. `seed` makes sequence numbers hard to guess.
    pub(crate) fn new(egress: &mut Egress, mtu: usize, now: Instant, seed: u64) -> Self {
        let mut config = InterfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut port = Port::sending(egress, now, mtu);
        let mut interface = Interface::new(config, &mut port, SmolInstant::ZERO);
        interface.set_any_ip(true);
        Self {
            interface,
            start: now,
            flows: Slots::default(),
            by_key: HashMap::new(),
            deadlines: Deadlines::default(),
            due: Vec::new(),
            stalled: Vec::new(),
            buffered: 0,
            next_port: 32_768,
        }
    }

    /// Whether `segment` belongs to a flow.
    pub(crate) fn knows(&self, segment: &Segment) -> bool {
        self.by_key.contains_key(&key_of(segment))
    }

    /// Takes a segment from the guest.
    pub(crate) fn packet(&mut self, cx: &mut Context, packet: &Packet<'_>, segment: &Segment) {
        if let Some(slot) = self.by_key.get(&key_of(segment)).copied() {
            self.deliver(cx, slot, packet, segment);
        } else if segment.is_syn() {
            self.open(cx, packet, segment);
        } else {
            refuse(cx, segment);
        }
    }

    /// Gives a segment to the flow that it belongs to.
    fn deliver(&mut self, cx: &mut Context, slot: Slot, packet: &Packet<'_>, segment: &Segment) {
        let now = self.smol_now(cx.now);
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let Some(link) = &mut flow.link else {
            // The SYN came again, or the guest has given up.
            if segment.is_reset() {
                self.remove(cx, slot);
            }
            return;
        };
        let queue = link.socket().send_queue();
        let mut port = Port::receiving(packet.bytes, &mut cx.egress, cx.now, cx.config.mtu);
        self.interface
            .poll_ingress_single(now, &mut port, &mut link.sockets);
        if link.socket().keep_alive().is_some() {
            let smoltcp = (&mut self.interface, now);
            probe::answered(cx, smoltcp, link, (packet, segment), queue);
        }
        self.mark(slot);
    }

    /// A host's socket became ready.
    pub(crate) fn ready(&mut self, cx: &mut Context, slot: Slot, ready: Ready) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        flow.ready.read |= ready.read;
        flow.ready.write |= ready.write;
        if matches!(flow.state, State::Connecting { .. }) {
            if ready.write {
                self.connected(cx, slot);
            }
        } else {
            self.mark(slot);
        }
    }

    /// Looks at every flow that has something to do now.
    pub(crate) fn turn(&mut self, cx: &mut Context) {
        while let Some(slot) = self.deadlines.pop(cx.now) {
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.deadline = None;
            }
            self.mark(slot);
        }
        if !self.stalled.is_empty() && cx.egress.has_room(cx.now) {
            for slot in std::mem::take(&mut self.stalled) {
                if let Some(flow) = self.flows.get_mut(slot) {
                    flow.stalled = false;
                }
                self.mark(slot);
            }
        }
        for slot in std::mem::take(&mut self.due) {
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.queued = false;
                self.pump(cx, slot);
            }
        }
        cx.counters.tcp_flows.set(self.flows.len());
    }

    /// When [`Tcp::turn`] has something to do; `now` if at once.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.due.is_empty() {
            self.deadlines.first()
        } else {
            Some(now)
        }
    }

    /// Whether flows wait for room in the queue to the guest.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Resets every flow on both sides.
    pub(crate) fn reset_all(&mut self, cx: &mut Context) {
        for slot in self.flows.slots() {
            self.reset(cx, slot);
        }
        cx.counters.tcp_flows.set(self.flows.len());
    }

    /// Every flow.
    pub(crate) fn list(&mut self, now: Instant) -> Vec<FlowInfo> {
        let slots = self.flows.slots();
        let flows = slots.into_iter().filter_map(|slot| {
            let flow = self.flows.get_mut(slot)?;
            Some(FlowInfo {
                protocol: Protocol::Tcp,
                guest: flow.key.guest,
                remote: flow.remote(),
                name: flow.name(),
                is_inbound: flow.is_inbound,
                age: now.saturating_duration_since(flow.opened),
                established: matches!(flow.state, State::Relaying { .. }),
                up_bytes: flow.moved.0,
                down_bytes: flow.moved.1,
            })
        });
        flows.collect()
    }

    /// Puts a flow on the list of this turn.
    fn mark(&mut self, slot: Slot) {
        if let Some(flow) = self.flows.get_mut(slot)
            && !flow.queued
        {
            flow.queued = true;
            self.due.push(slot);
        }
    }

    /// Removes a flow. Its socket is closed.
    fn remove(&mut self, cx: &Context, slot: Slot) {
        if let Some(flow) = self.flows.remove(slot) {
            self.deadlines.set(slot, flow.deadline, None);
            self.by_key.remove(&flow.key);
            self.buffered -= flow.link.map_or(0, |link| link.buffer_bytes);
            if flow.is_inbound {
                cx.published_ended();
            }
            cx.counters.tcp_flows.set(self.flows.len());
        }
    }

    fn smol_now(&self, now: Instant) -> SmolInstant {
        let since = now.saturating_duration_since(self.start).as_micros();
        SmolInstant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

fn key_of(segment: &Segment) -> Key {
    Key {
        guest: segment.source,
        remote: segment.destination,
    }
}

/// Answers a segment with a reset.
pub(crate) fn refuse(cx: &mut Context, segment: &Segment) {
    if let Some(reset) = reset_for(segment) {
        cx.egress.send(&reset);
    }
}

/// An endpoint as smoltcp names it.
fn endpoint(address: SocketAddr) -> smoltcp::wire::IpEndpoint {
    smoltcp::wire::IpEndpoint::new(address.ip().into(), address.port())
}
