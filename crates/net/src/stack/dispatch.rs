//! From a frame to the part of the stack that serves it. Everything else ends here, counted.

use super::Stack;
use crate::{
    dns,
    link::{Arp, answer_arp, answer_ndp, is_link_local},
    tcp::refuse,
    wire::{Datagram, EtherType, Ethernet, Fault, Packet, Reassembled, Segment, protocol},
};

/// The address that all stations of a link receive.
const BROADCAST: [u8; 6] = [0xff; 6];

impl Stack {
    /// Handles one frame of the guest.
    pub(super) fn handle_frame(&mut self, frame: &[u8]) {
        let counters = &self.cx.counters;
        if let Some(capture) = &self.cx.egress.capture
            && !capture.frame(frame)
        {
            counters.capture_dropped.one();
        }
        let Some(ethernet) = Ethernet::parse(frame) else {
            counters.malformed.one();
            return;
        };
        if ethernet.source != self.cx.config.guest_mac {
            counters.spoofed.one();
            return;
        }
        let for_us = ethernet.destination == self.cx.config.gateway_mac;
        let for_all = ethernet.destination[0] & 1 == 1;
        match ethernet.kind {
            Some(EtherType::Arp) if for_us || ethernet.destination == BROADCAST => {
                self.handle_arp(ethernet.payload);
            }
            Some(EtherType::Ipv4) if for_us => self.handle_ip(Packet::parse_v4(ethernet.payload)),
            Some(EtherType::Ipv6) if for_us || for_all => {
                self.handle_ip(Packet::parse_v6(ethernet.payload));
            }
            _ => counters.ignored.one(),
        }
    }

    fn handle_arp(&mut self, message: &[u8]) {
        let counters = &self.cx.counters;
        match answer_arp(message, &self.cx.config) {
            Arp::Answer(answer) => self.cx.egress.send_arp(&answer),
            Arp::Ignored => counters.ignored.one(),
            Arp::Spoofed => counters.spoofed.one(),
            Arp::Malformed => counters.malformed.one(),
        }
    }

    fn handle_ip(&mut self, packet: Result<Packet<'_>, Fault>) {
        let counters = &self.cx.counters;
        let packet = match packet {
            Ok(packet) => packet,
            Err(Fault::Malformed) => return counters.malformed.one(),
            Err(Fault::Unsupported) => return counters.ignored.one(),
        };
        if packet.source.is_ipv6() && self.handle_link_message(&packet) {
            return;
        }
        let counters = &self.cx.counters;
        if !self.cx.config.is_guest(packet.source) {
            return counters.spoofed.one();
        }
        if !is_unicast(&packet) {
            return counters.ignored.one();
        }
        let Some(fragment) = packet.fragment else {
            return self.handle_packet(&packet);
        };
        match self.reassembly.add(&packet, fragment, self.cx.now) {
            Reassembled::Waiting => {}
            Reassembled::Dropped => counters.fragments_dropped.one(),
            Reassembled::Whole(whole) => {
                let packet = if packet.source.is_ipv4() {
                    Packet::parse_v4(&whole)
                } else {
                    Packet::parse_v6(&whole)
                };
                match packet {
                    Ok(packet) => self.handle_packet(&packet),
                    Err(_) => counters.malformed.one(),
                }
            }
        }
    }

    /// Handles messages that stay on the link. Returns whether `packet` was one.
    fn handle_link_message(&mut self, packet: &Packet<'_>) -> bool {
        let on_link = packet.protocol == protocol::ICMPV6
            && matches!(packet.payload.first(), Some(133..=137 | 143 | 130..=132));
        let from_link = is_link_local(packet.source) || packet.source.is_unspecified();
        if !on_link && !from_link {
            return false;
        }
        let known = from_link || self.cx.config.is_guest(packet.source);
        if !known {
            self.cx.counters.spoofed.one();
        } else if packet.fragment.is_none()
            && let Some(answer) = answer_ndp(packet, &self.cx.config)
        {
            self.cx.egress.send(&answer);
        } else {
            self.cx.counters.ignored.one();
        }
        true
    }

    fn handle_packet(&mut self, packet: &Packet<'_>) {
        if self.peers.packet(&mut self.cx, packet) {
            return;
        }
        let counters = &self.cx.counters;
        match packet.protocol {
            protocol::TCP => match Segment::parse(packet) {
                Some(segment) => self.handle_segment(packet, &segment),
                None => counters.malformed.one(),
            },
            protocol::UDP => match Datagram::parse(packet) {
                Some(datagram) => self.handle_datagram(packet, &datagram),
                None => counters.malformed.one(),
            },
            protocol::ICMP if packet.source.is_ipv4() => self.icmp.packet(&mut self.cx, packet),
            protocol::ICMPV6 if packet.source.is_ipv6() => self.icmp.packet(&mut self.cx, packet),
            _ => counters.ignored.one(),
        }
    }

    fn handle_segment(&mut self, packet: &Packet<'_>, segment: &Segment) {
        let cx = &mut self.cx;
        let to_gateway = cx.config.is_gateway(segment.destination.ip());
        if !to_gateway || self.tcp.knows(segment) {
            self.tcp.packet(cx, packet, segment);
        } else if segment.is_syn() && dns::is_server(cx, segment.destination) {
            match self.dns.accept(cx) {
                Some(fd) => self.tcp.serve(cx, packet, segment, fd),
                None => refuse(cx, segment),
            }
        } else {
            refuse(cx, segment);
        }
    }

    fn handle_datagram(&mut self, packet: &Packet<'_>, datagram: &Datagram<'_>) {
        let cx = &mut self.cx;
        if dns::is_server(cx, datagram.destination) {
            self.dns.datagram(cx, datagram);
        } else if cx.config.is_gateway(datagram.destination.ip()) {
            self.publish.datagram(cx, packet, datagram);
        } else {
            self.udp.packet(cx, packet, datagram);
        }
    }
}

/// Whether the packet is for one station. Whatever the policy says, others are not.
fn is_unicast(packet: &Packet<'_>) -> bool {
    let destination = packet.destination;
    !destination.is_multicast()
        && !destination.is_unspecified()
        && destination != std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}
