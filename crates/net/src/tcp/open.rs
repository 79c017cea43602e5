//! How a flow begins: a SYN of the guest, a connection to a published port, or a service of the
//! stack itself.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::io::Errno;

use super::{
    Tcp, connect,
    device::Port,
    endpoint,
    flow::{Flow, Key, Link, State, reset_host},
    key_of, refuse,
};
use crate::{
    context::Context,
    intercept::Scanner,
    policy::Protocol,
    poller::{Owner, Ready},
    slots::Slot,
    wire::{Packet, Segment, unreachable},
};

/// Smallest buffer of one direction.
const MIN_BUFFER_BYTES: usize = 8 << 10;

/// Largest buffer of one direction.
const MAX_BUFFER_BYTES: usize = 1 << 20;

/// Ports from which the gateway connects to a published port of the guest.
const DIAL_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

impl Tcp {
    /// A SYN of the guest: asks the policy, and begins to connect.
    pub(super) fn open(&mut self, cx: &mut Context, packet: &Packet<'_>, segment: &Segment) {
        if self.is_full(cx) {
            refuse(cx, segment);
            return;
        }
        let Some(destination) = cx.admit(Protocol::Tcp, segment.destination) else {
            refuse(cx, segment);
            return;
        };
        let fd = match connect::begin(destination.address) {
            Ok(fd) => fd,
            Err(error) => {
                cx.counters.connects_failed.one();
                explain(cx, packet.bytes, segment, error);
                return;
            }
        };
        let state = State::Connecting {
            syn: packet.bytes.to_vec(),
        };
        let slot = self.insert(cx, key_of(segment), state, fd);
        if let Some(flow) = slot.and_then(|slot| self.flows.get_mut(slot)) {
            flow.check_name = destination.check_name;
            flow.names = destination.names;
            let has_secrets = cx.config.secrets.is_some();
            flow.look = has_secrets || destination.check_name.is_some();
            flow.scanner = has_secrets.then(Scanner::default);
        } else {
            refuse(cx, segment);
        }
    }

    /// A SYN of the guest for a service of the stack, whose other end is `fd`.
    pub(crate) fn serve(
        &mut self,
        cx: &mut Context,
        packet: &Packet<'_>,
        segment: &Segment,
        fd: OwnedFd,
    ) {
        let state = State::Connecting {
            syn: packet.bytes.to_vec(),
        };
        let slot = if self.is_full(cx) {
            None
        } else {
            self.insert(cx, key_of(segment), state, fd)
        };
        match slot {
            Some(slot) => self.answer_syn(cx, slot),
            None => refuse(cx, segment),
        }
    }

    /// A connection to a published port: connects to `port` of the guest from `gateway`. If the
    /// guest refuses, the peer of `fd` gets a reset.
    pub(crate) fn dial(
        &mut self,
        cx: &mut Context,
        fd: OwnedFd,
        (guest, gateway): (SocketAddr, std::net::IpAddr),
    ) {
        connect::set_options(&fd);
        let key = if self.is_full(cx) {
            None
        } else {
            self.free_key(guest, gateway)
        };
        let Some(key) = key else {
            reset_host(&fd);
            return;
        };
        let Some(slot) = self.insert(cx, key, State::Opening, fd) else {
            return;
        };
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.is_inbound = true;
            cx.published_began();
        }
        let mut link = self.new_link(cx);
        let socket = link.socket();
        let (local, remote) = (endpoint(key.remote), endpoint(key.guest));
        // Both ends are unicast and have ports, and the socket is new, so it cannot refuse.
        let connected = socket.connect(self.interface.context(), remote, local);
        debug_assert!(connected.is_ok());
        self.attach(slot, link);
    }

    /// The host's connect is over.
    pub(super) fn connected(&mut self, cx: &mut Context, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        match connect::result(&flow.fd) {
            Ok(Ok(())) => self.answer_syn(cx, slot),
            Ok(Err(error)) => self.refuse_syn(cx, slot, error),
            Err(_) => self.refuse_syn(cx, slot, Errno::CONNREFUSED),
        }
    }

    /// The host's connect has failed or takes too long: answers the guest's SYN.
    pub(super) fn refuse_syn(&mut self, cx: &mut Context, slot: Slot, error: Errno) {
        cx.counters.connects_failed.one();
        if let Some(flow) = self.flows.get_mut(slot)
            && let State::Connecting { syn } = &mut flow.state
        {
            let syn = std::mem::take(syn);
            if let Some(segment) = parse(&syn) {
                explain(cx, &syn, &segment, error);
            }
        }
        self.remove(cx, slot);
    }

    /// Gives the guest's SYN to a socket that listens, which answers it.
    fn answer_syn(&mut self, cx: &mut Context, slot: Slot) {
        let now = self.smol_now(cx.now);
        let mut link = self.new_link(cx);
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let State::Connecting { syn } = std::mem::replace(&mut flow.state, State::Opening) else {
            return;
        };
        // The socket is new and the port is not 0 (see `insert`), so it cannot refuse.
        let listening = link.socket().listen(endpoint(flow.key.remote));
        debug_assert!(listening.is_ok());
        let mut port = Port::receiving(&syn, &mut cx.egress, cx.now, cx.config.mtu);
        self.interface
            .poll_ingress_single(now, &mut port, &mut link.sockets);
        self.attach(slot, link);
    }

    fn attach(&mut self, slot: Slot, link: Link) {
        if let Some(flow) = self.flows.get_mut(slot) {
            self.buffered += link.buffer_bytes;
            flow.link = Some(link);
            // The first read or write shows the real state.
            flow.ready = Ready {
                read: true,
                write: true,
            };
        }
        self.mark(slot);
    }

    fn insert(&mut self, cx: &mut Context, key: Key, state: State, fd: OwnedFd) -> Option<Slot> {
        if key.guest.port() == 0 || key.remote.port() == 0 {
            cx.counters.malformed.one();
            return None;
        }
        let gives_up = cx.now + cx.config.timeouts.connect;
        let poller = &cx.poller;
        let slot = self.flows.insert_with(|slot| {
            poller.add(&fd, Owner::Tcp, slot)?;
            Ok::<_, std::io::Error>(Flow::new(key, state, fd, (cx.now, gives_up)))
        });
        let slot = slot.ok()?;
        self.by_key.insert(key, slot);
        self.set_deadline(slot, Some(gives_up));
        cx.counters.tcp_opened.one();
        cx.counters.tcp_flows.set(self.flows.len());
        Some(slot)
    }

    fn is_full(&self, cx: &mut Context) -> bool {
        let limit = cx.config.limits.tcp_flows;
        let full = self.flows.len() >= limit;
        if full {
            cx.events
                .flow_limit(cx.now, Protocol::Tcp, limit, &cx.counters);
        }
        full
    }

    /// A socket whose buffers have a sixteenth of the free bytes each.
    fn new_link(&self, cx: &Context) -> Link {
        let free = cx
            .config
            .limits
            .tcp_buffer_bytes
            .saturating_sub(self.buffered);
        let bytes = (free / 16).clamp(MIN_BUFFER_BYTES, MAX_BUFFER_BYTES);
        // Whole pages, so that buffers do not share any.
        Link::new(bytes & !0xfff)
    }

    /// A pair of ends that no flow has, from a free port of the gateway.
    fn free_key(&mut self, guest: SocketAddr, gateway: std::net::IpAddr) -> Option<Key> {
        for _ in DIAL_PORTS {
            let port = self.next_port;
            self.next_port = if port == *DIAL_PORTS.end() {
                *DIAL_PORTS.start()
            } else {
                port + 1
            };
            let key = Key {
                guest,
                remote: SocketAddr::new(gateway, port),
            };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }
}

fn parse(syn: &[u8]) -> Option<Segment> {
    let packet = if syn.first()? >> 4 == 4 {
        Packet::parse_v4(syn)
    } else {
        Packet::parse_v6(syn)
    };
    Segment::parse(&packet.ok()?)
}

/// Answers a SYN whose connect has failed: with an ICMP error that says why, if there is one, and
/// with a reset. Linux only notes an ICMP error that comes while the program is still in
/// connect(2), and sends the SYN again after a second; a reset is never lost.
fn explain(cx: &mut Context, syn: &[u8], segment: &Segment, error: Errno) {
    let (guest, remote) = (segment.source.ip(), segment.destination.ip());
    if let Some(why) = connect::explain(error) {
        cx.egress.send(&unreachable(why, guest, remote, syn));
    }
    refuse(cx, segment);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Unreachable;

    #[test]
    fn failures_of_connect_are_told_by_the_error_that_fits() {
        for (error, expected) in [
            (Errno::CONNREFUSED, None),
            (Errno::MFILE, None),
            (Errno::NETUNREACH, Some(Unreachable::Network)),
            (Errno::TIMEDOUT, Some(Unreachable::Host)),
            (Errno::HOSTUNREACH, Some(Unreachable::Host)),
            (Errno::PERM, Some(Unreachable::Prohibited)),
        ] {
            assert_eq!(connect::explain(error), expected);
        }
    }
}
