//! UDP: for each pair of ends a connected socket of the host.
//!
//! A connected socket receives from its peer only, and the kernel reports ICMP errors on it, which
//! the guest gets as its own. A flow ends by time: soon if no answer comes, later if both sides
//! have sent. Nothing is kept for a guest that does not read: datagrams are dropped, as on a wire.
//!
//! *Source:* RFC 4787 (REQ-5, REQ-8); udp(7).

mod flow;

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use self::flow::Flow;
use crate::{
    context::Context,
    policy::Protocol,
    poller::Owner,
    slots::{Deadlines, Slot, Slots},
    stats::{FlowInfo, bytes},
    wire::{Datagram, IpHeader, Packet, Unreachable, unreachable, write_udp},
};

/// Largest datagram, over IPv6. Over IPv4 it has 20 bytes less.
const MAX_DATA_BYTES: usize = 65_527;

/// Datagrams that one flow receives before others have their turn.
const TURN: usize = 64;

type Key = (SocketAddr, SocketAddr);

/// All UDP flows that the guest has begun.
#[derive(Debug)]
pub(crate) struct Udp {
    flows: Slots<Flow>,
    by_key: HashMap<Key, Slot>,
    deadlines: Deadlines,
    buffer: Vec<u8>,
}

impl Udp {
    pub(crate) fn new() -> Self {
        Self {
            flows: Slots::default(),
            by_key: HashMap::new(),
            deadlines: Deadlines::default(),
            buffer: vec![0; MAX_DATA_BYTES + 1],
        }
    }

    /// Takes a datagram from the guest.
    pub(crate) fn packet(
        &mut self,
        cx: &mut Context,
        packet: &Packet<'_>,
        datagram: &Datagram<'_>,
    ) {
        let key = (datagram.source, datagram.destination);
        let slot = match self.by_key.get(&key) {
            Some(slot) => *slot,
            None => match self.open(cx, packet, key) {
                Some(slot) => slot,
                None => return,
            },
        };
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        flow.used = cx.now;
        flow.quote(packet);
        flow.moved.0 += bytes(datagram.data.len());
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&flow.fd, datagram.data, flags) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {}
            // The answer to an earlier datagram: it is reported, and this one is sent.
            Err(Errno::CONNREFUSED) => {
                report(cx, flow, Unreachable::Port);
                let _ = send(&flow.fd, datagram.data, flags);
            }
            Err(error) => {
                let why = flow::explain(error, &flow.fd, datagram.destination);
                report(cx, flow, why);
            }
        }
    }

    /// Opens a flow if the policy and the limit allow it.
    fn open(&mut self, cx: &mut Context, packet: &Packet<'_>, key: Key) -> Option<Slot> {
        let (guest, remote) = key;
        let refuse = |cx: &mut Context, why| {
            let answer = unreachable(why, guest.ip(), remote.ip(), packet.bytes);
            cx.egress.send(&answer);
        };
        if key.1.port() == 0 {
            cx.counters.malformed.one();
            return None;
        }
        let limit = cx.config.limits.udp_flows;
        if self.flows.len() >= limit {
            cx.events
                .flow_limit(cx.now, Protocol::Udp, limit, &cx.counters);
            return None;
        }
        let Some(destination) = cx.admit(Protocol::Udp, remote) else {
            refuse(cx, Unreachable::Prohibited);
            return None;
        };
        let fd = match flow::connected(destination.address) {
            Ok(fd) => fd,
            Err(error) => {
                cx.counters.connects_failed.one();
                refuse(cx, flow::explain_connect(error));
                return None;
            }
        };
        let poller = &cx.poller;
        let now = cx.now;
        let slot = self.flows.insert_with(|slot| {
            poller.add_level(&fd, Owner::Udp, slot)?;
            Ok::<_, std::io::Error>(Flow::new(key, fd, destination.names, now))
        });
        let slot = slot.ok()?;
        self.by_key.insert(key, slot);
        self.deadlines
            .set(slot, None, Some(now + cx.config.timeouts.udp_unanswered));
        cx.counters.udp_opened.one();
        cx.counters.udp_flows.set(self.flows.len());
        Some(slot)
    }

    /// A host's socket has datagrams or an error.
    pub(crate) fn ready(&mut self, cx: &mut Context, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        for _ in 0..TURN {
            match recv(&flow.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count <= MAX_DATA_BYTES => {
                    flow.answered = true;
                    flow.moved.1 += bytes(count);
                    flow.used = cx.now;
                    let (guest, remote) = flow.key;
                    deliver(cx, remote, guest, &self.buffer[..count]);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    let why = flow::explain(error, &flow.fd, flow.key.1);
                    report(cx, flow, why);
                }
            }
        }
    }

    /// Every flow.
    pub(crate) fn list(&mut self, now: Instant) -> Vec<FlowInfo> {
        let slots = self.flows.slots();
        let flows = slots.into_iter().filter_map(|slot| {
            let flow = self.flows.get_mut(slot)?;
            Some(FlowInfo {
                protocol: Protocol::Udp,
                guest: flow.key.0,
                remote: flow.key.1,
                name: flow.names.first().map(ToString::to_string),
                is_inbound: false,
                age: now.saturating_duration_since(flow.opened),
                established: flow.answered,
                up_bytes: flow.moved.0,
                down_bytes: flow.moved.1,
            })
        });
        flows.collect()
    }

    /// Removes the flows whose time is over.
    pub(crate) fn turn(&mut self, cx: &mut Context) {
        while let Some(slot) = self.deadlines.pop(cx.now) {
            let Some(flow) = self.flows.get_mut(slot) else {
                continue;
            };
            let wait = if flow.answered {
                cx.config.timeouts.udp_idle
            } else {
                cx.config.timeouts.udp_unanswered
            };
            let ends = flow.used + wait;
            if ends > cx.now {
                self.deadlines.set(slot, None, Some(ends));
            } else if let Some(flow) = self.flows.remove(slot) {
                self.by_key.remove(&flow.key);
            }
        }
        cx.counters.udp_flows.set(self.flows.len());
    }

    /// When [`Udp::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Forgets the flows that the policy does not allow any more; returns how many.
    pub(crate) fn reset_denied(&mut self, cx: &mut Context) -> usize {
        let mut count = 0;
        for slot in self.flows.slots() {
            let Some(flow) = self.flows.get_mut(slot) else {
                continue;
            };
            let key = flow.key;
            if cx.admit_again(Protocol::Udp, key.1, &flow.names).is_none() {
                self.flows.remove(slot);
                self.by_key.remove(&key);
                count += 1;
            }
        }
        cx.counters.udp_flows.set(self.flows.len());
        count
    }

    /// Forgets every flow.
    pub(crate) fn reset_all(&mut self, cx: &mut Context) {
        for slot in self.flows.slots() {
            self.flows.remove(slot);
        }
        self.by_key.clear();
        self.deadlines = Deadlines::default();
        cx.counters.udp_flows.set(0);
    }
}

/// Gives a datagram to the guest.
pub(crate) fn deliver(cx: &mut Context, source: SocketAddr, guest: SocketAddr, data: &[u8]) {
    let header = IpHeader::udp(source, guest, data.len());
    if header.payload_bytes > IpHeader::max_payload_bytes(guest.ip()) {
        return;
    }
    let len = header.total_bytes();
    if len <= cx.config.mtu {
        cx.egress
            .packet(len, |room| write_udp(room, source, guest, data));
    } else {
        let mut packet = vec![0; len];
        write_udp(&mut packet, source, guest, data);
        cx.egress.send(&packet);
    }
}

/// Answers the last datagram of a flow with an ICMP error.
fn report(cx: &mut Context, flow: &Flow, why: Unreachable) {
    let (guest, remote) = flow.key;
    let answer = unreachable(why, guest.ip(), remote.ip(), flow.quoted());
    cx.egress.send(&answer);
}
