//! ICMP echo: the gateway answers itself, and others are asked by ping sockets.
//!
//! A ping socket needs no privilege where the host's `net.ipv4.ping_group_range` has the user's
//! group. Where it does not, the guest gets an honest "unreachable". Other ICMP messages of a
//! guest are ignored: its errors would be about flows that end here.
//!
//! *Source:* RFC 792; RFC 4443, section 4; icmp(7).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
        socket_with,
    },
};

use crate::{
    context::Context,
    policy::Protocol,
    poller::Owner,
    slots::{Deadlines, Slot, Slots},
    wire::{IpHeader, Packet, Unreachable, be16, checksum, protocol, pseudo_sum, sum, unreachable},
};

/// Bytes before the data of an echo.
const ECHO_BYTES: usize = 8;

/// Largest message, over IPv6. Over IPv4 it has 20 bytes less.
const MAX_BYTES: usize = 65_535;

/// Messages that one flow receives before others have their turn.
const TURN: usize = 16;

/// Destination and identifier, as the guest sees them.
type Key = (IpAddr, u16);

#[derive(Debug)]
struct Flow {
    key: Key,
    fd: OwnedFd,
    used: Instant,
}

/// All echo flows.
#[derive(Debug)]
pub(crate) struct Icmp {
    flows: Slots<Flow>,
    by_key: HashMap<Key, Slot>,
    deadlines: Deadlines,
    buffer: Vec<u8>,
}

impl Icmp {
    pub(crate) fn new() -> Self {
        Self {
            flows: Slots::default(),
            by_key: HashMap::new(),
            deadlines: Deadlines::default(),
            buffer: vec![0; MAX_BYTES],
        }
    }

    /// Takes an ICMP packet from the guest.
    pub(crate) fn packet(&mut self, cx: &mut Context, packet: &Packet<'_>) {
        let message = packet.payload;
        let v4 = packet.source.is_ipv4();
        let (request, total) = if v4 {
            (8, sum(message))
        } else {
            let (source, destination) = (packet.source, packet.destination);
            let total = pseudo_sum(source, destination, protocol::ICMPV6, message);
            (128, total)
        };
        if message.len() < ECHO_BYTES || total != 0xffff {
            cx.counters.malformed.one();
            return;
        }
        if message[..2] != [request, 0] {
            cx.counters.ignored.one();
            return;
        }
        if cx.config.is_gateway(packet.destination) {
            answer(cx, packet.destination, message, be16(message, 4));
            return;
        }
        let key = (packet.destination, be16(message, 4));
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
        match send(&flow.fd, message, SendFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {}
            Err(error) => refuse(cx, packet, explain(error)),
        }
    }

    fn open(&mut self, cx: &mut Context, packet: &Packet<'_>, key: Key) -> Option<Slot> {
        let limit = cx.config.limits.icmp_flows;
        if self.flows.len() >= limit {
            cx.events
                .flow_limit(cx.now, Protocol::Icmp, limit, &cx.counters);
            return None;
        }
        let remote = SocketAddr::new(packet.destination, 0);
        let Some(destination) = cx.admit(Protocol::Icmp, remote) else {
            refuse(cx, packet, Unreachable::Prohibited);
            return None;
        };
        let fd = match ping_socket(destination.address) {
            Ok(fd) => fd,
            Err(error) => {
                cx.counters.connects_failed.one();
                refuse(cx, packet, explain(error));
                return None;
            }
        };
        let poller = &cx.poller;
        let used = cx.now;
        let slot = self.flows.insert_with(|slot| {
            poller.add_level(&fd, Owner::Icmp, slot)?;
            Ok::<_, std::io::Error>(Flow { key, fd, used })
        });
        let slot = slot.ok()?;
        self.by_key.insert(key, slot);
        self.deadlines
            .set(slot, None, Some(used + cx.config.timeouts.icmp_idle));
        cx.counters.icmp_flows.set(self.flows.len());
        Some(slot)
    }

    /// A ping socket has an answer.
    pub(crate) fn ready(&mut self, cx: &mut Context, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let reply = if flow.key.0.is_ipv4() { 0 } else { 129 };
        for _ in 0..TURN {
            match recv(&flow.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count >= ECHO_BYTES && self.buffer[0] == reply => {
                    flow.used = cx.now;
                    answer(cx, flow.key.0, &self.buffer[..count], flow.key.1);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Removes the flows whose time is over.
    pub(crate) fn turn(&mut self, cx: &mut Context) {
        while let Some(slot) = self.deadlines.pop(cx.now) {
            let Some(flow) = self.flows.get_mut(slot) else {
                continue;
            };
            let ends = flow.used + cx.config.timeouts.icmp_idle;
            if ends > cx.now {
                self.deadlines.set(slot, None, Some(ends));
            } else if let Some(flow) = self.flows.remove(slot) {
                self.by_key.remove(&flow.key);
            }
        }
        cx.counters.icmp_flows.set(self.flows.len());
    }

    /// When [`Icmp::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }
}

fn ping_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let (family, protocol) = if address.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6)
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    connect(&fd, &address)?;
    Ok(fd)
}

fn explain(error: Errno) -> Unreachable {
    match error {
        Errno::NETUNREACH | Errno::NETDOWN => Unreachable::Network,
        // The host does not let this user ping.
        Errno::ACCESS | Errno::PERM => Unreachable::Prohibited,
        _ => Unreachable::Host,
    }
}

fn refuse(cx: &mut Context, packet: &Packet<'_>, why: Unreachable) {
    let answer = unreachable(why, packet.source, packet.destination, packet.bytes);
    cx.egress.send(&answer);
}

/// Gives the guest the reply of `source` with the data of `message`.
fn answer(cx: &mut Context, source: IpAddr, message: &[u8], id: u16) {
    let Some(guest) = cx.config.guest_like(source) else {
        return;
    };
    let v4 = source.is_ipv4();
    let header = IpHeader {
        source,
        destination: guest,
        protocol: if v4 { protocol::ICMP } else { protocol::ICMPV6 },
        payload_bytes: message.len(),
    };
    let mut packet = vec![0; header.total_bytes()];
    let payload = header.write(&mut packet);
    payload.copy_from_slice(message);
    payload[0] = if v4 { 0 } else { 129 };
    payload[2..4].fill(0);
    payload[4..6].copy_from_slice(&id.to_be_bytes());
    let total = if v4 {
        sum(payload)
    } else {
        pseudo_sum(source, guest, header.protocol, payload)
    };
    payload[2..4].copy_from_slice(&checksum(total).to_be_bytes());
    cx.egress.send(&packet);
}
