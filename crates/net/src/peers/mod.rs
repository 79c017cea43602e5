//! Packets between the guest and the members of its named networks.
//!
//! The guests' connections are end to end: no socket of a host is in between, and nothing is
//! rewritten. This stack passes a packet on if its guest has the source address on that network
//! and the rules allow the destination. The stack of the other member checks the source once more,
//! against the number of the member whose connection brought the packet. So no member can take the
//! place of another, also if it has taken over its own stack.
//!
//! Members reach each other unless a rule denies it; the profile is about other destinations. A
//! rule is about packets that the guest sends first: what answers a packet of the other member
//! passes. Where a rule denies a member, its packets are remembered for that, with a bound.

mod replies;

use std::net::{IpAddr, SocketAddr};

use self::replies::{Key, Replies, Step};
use crate::{
    context::Context,
    policy::{Decision, Name, Protocol, Query},
    switch::{Peer, Sent},
    tcp::refuse,
    wire::{Datagram, Packet, Segment, Unreachable, protocol, unreachable},
};

/// Packets to the guest in one turn.
const TURN: usize = 64;

/// What the guest and the members of its networks send each other.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    replies: Replies,
}

/// Source and destination of a packet with the ports that it has.
#[derive(Clone, Copy, Debug)]
struct Ends {
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    step: Step,
}

impl Peers {
    /// Takes a packet of the guest if it is for an address of a named network; returns whether it
    /// is.
    pub(crate) fn packet(&mut self, cx: &mut Context, packet: &Packet<'_>) -> bool {
        let to = packet.destination;
        let mut networks = cx.switch.networks();
        let Some((port, network)) = networks.find(|(_, network)| network.contains(to)) else {
            return false;
        };
        let (number, own) = (network.number_of(to), network.is_own(packet.source));
        let is_self = network.is_own(to);
        drop(networks);
        let Some(ends) = ends(packet) else {
            cx.counters.malformed.one();
            return true;
        };
        match number {
            _ if !own => cx.counters.spoofed.one(),
            None => cx.counters.ignored.one(),
            Some(_) if is_self => cx.counters.ignored.one(),
            Some(number) => self.pass(cx, packet, (port, number), ends),
        }
        true
    }

    fn pass(&mut self, cx: &mut Context, packet: &Packet<'_>, to: Peer, ends: Ends) {
        if let Decision::Deny(denial) = decide(cx, to, ends.protocol, ends.destination) {
            let key = Key::new(ends.protocol, ends.destination, ends.source);
            if !self.replies.answers(to, &key, ends.step, cx.now) {
                let what = (ends.protocol, ends.destination, None);
                cx.events.denied(cx.now, what, denial, &cx.counters);
                return turn_back(cx, packet, Unreachable::Prohibited);
            }
        }
        match cx.switch.send(&cx.poller, to, packet.bytes) {
            Sent::Yes => {}
            Sent::Full => cx.counters.peers_dropped.one(),
            Sent::Nobody => turn_back(cx, packet, Unreachable::Host),
        }
    }

    /// Gives the packets of members to the guest, as long as its queue has room.
    pub(crate) fn turn(&mut self, cx: &mut Context) {
        let dropped = cx.switch.turn(&cx.poller, cx.now);
        cx.counters.peers_dropped.add(dropped);
        for _ in 0..TURN {
            if !cx.egress.has_room(cx.now) {
                return;
            }
            let Some((from, len)) = cx.switch.receive() else {
                return;
            };
            let buffer = cx.switch.take_received();
            self.deliver(cx, from, buffer.get(..len).unwrap_or_default());
            cx.switch.give_back(buffer);
        }
    }

    fn deliver(&mut self, cx: &mut Context, from: Peer, bytes: &[u8]) {
        let parsed = match bytes.first().map(|first| first >> 4) {
            Some(4) => Packet::parse_v4(bytes).ok(),
            Some(6) => Packet::parse_v6(bytes).ok(),
            _ => None,
        };
        // A stack sends whole packets only.
        let parsed = parsed.filter(|packet| packet.fragment.is_none());
        let Some((packet, ends)) = parsed.and_then(|packet| Some((packet, ends(&packet)?))) else {
            return cx.counters.malformed.one();
        };
        let honest = cx.switch.network(from.0).is_some_and(|network| {
            network.number_of(packet.source) == Some(from.1) && network.is_own(packet.destination)
        });
        if !honest {
            return cx.counters.spoofed.one();
        }
        let answer = decide(cx, from, ends.protocol, ends.source);
        if matches!(answer, Decision::Deny(_)) {
            let key = Key::new(ends.protocol, ends.source, ends.destination);
            self.replies.enter(from, key, ends.step, cx.now);
        }
        cx.egress.send(packet.bytes);
    }

    /// Whether packets wait for room in the queue to the guest.
    pub(crate) fn is_stalled(cx: &Context) -> bool {
        cx.switch.has_waiting()
    }

    /// Forgets what members have sent.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Asks the rules about a packet to a member.
fn decide(cx: &Context, to: Peer, protocol: Protocol, destination: SocketAddr) -> Decision {
    if cx.policy.rules.is_empty() {
        return Decision::Allow { by_name: false };
    }
    let names = match cx.policy.rules.iter().any(|rule| rule.target.is_name()) {
        true => names(cx, to),
        false => Vec::new(),
    };
    cx.policy.decide_member(&Query {
        protocol,
        address: destination.ip(),
        port: destination.port(),
        is_host: false,
        is_own: false,
        names: &names,
    })
}

/// The names of a member, alone and below the network's.
fn names(cx: &Context, of: Peer) -> Vec<Name> {
    let members = cx.switch.members(of.0);
    let network = cx.switch.network(of.0).map(|network| network.name.as_str());
    let member = members.iter().find(|member| member.number == of.1);
    let names = member.into_iter().flat_map(|member| &member.names);
    names
        .flat_map(|name| {
            let long = network.map(|network| format!("{name}.{network}"));
            [Some(name.clone()), long]
        })
        .filter_map(|name| name?.parse().ok())
        .collect()
}

/// Answers a packet of the guest that goes nowhere.
fn turn_back(cx: &mut Context, packet: &Packet<'_>, why: Unreachable) {
    if packet.protocol == protocol::TCP && why == Unreachable::Prohibited {
        if let Some(segment) = Segment::parse(packet) {
            refuse(cx, &segment);
        }
        return;
    }
    // An error about an error is never sent (RFC 1122, section 3.2.2).
    let is_echo = matches!(
        (packet.protocol, packet.payload.first()),
        (protocol::ICMP, Some(8)) | (protocol::ICMPV6, Some(128))
    );
    if is_echo || matches!(packet.protocol, protocol::TCP | protocol::UDP) {
        let answer = unreachable(why, packet.source, packet.destination, packet.bytes);
        cx.egress.send(&answer);
    }
}

/// The ends of a packet of a protocol that members may speak.
fn ends(packet: &Packet<'_>) -> Option<Ends> {
    let place = |address: IpAddr| SocketAddr::new(address, 0);
    let mut step = Step::GoOn;
    let (protocol, source, destination) = match packet.protocol {
        protocol::TCP => {
            let segment = Segment::parse(packet)?;
            step = match (segment.is_syn(), segment.is_reset()) {
                (true, _) => Step::Open,
                (_, true) => Step::Reset,
                _ => Step::GoOn,
            };
            (Protocol::Tcp, segment.source, segment.destination)
        }
        protocol::UDP => {
            let datagram = Datagram::parse(packet)?;
            (Protocol::Udp, datagram.source, datagram.destination)
        }
        protocol::ICMP if packet.source.is_ipv4() => (
            Protocol::Icmp,
            place(packet.source),
            place(packet.destination),
        ),
        // Messages that stay on a link are not for another one (RFC 4861, section 7.1).
        protocol::ICMPV6
            if packet.source.is_ipv6() && !matches!(packet.payload.first(), Some(130..=143)) =>
        {
            (
                Protocol::Icmp,
                place(packet.source),
                place(packet.destination),
            )
        }
        _ => return None,
    };
    Some(Ends {
        protocol,
        source,
        destination,
        step,
    })
}
