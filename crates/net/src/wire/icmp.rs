//! ICMP errors that the stack sends to its guest.
//!
//! *Source:* RFC 792; RFC 1812, section 5.2.7.1; RFC 4443, section 3.1.

use std::net::IpAddr;

use super::{
    build::{IpHeader, checksum, pseudo_sum, sum},
    protocol,
};

/// Why a packet did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// The host has no route.
    Network,
    /// The destination did not answer.
    Host,
    /// No program listens.
    Port,
    /// The policy forbids it.
    Prohibited,
    /// The packet is too large for the way; with the size that fits.
    TooBig(u16),
}

impl Unreachable {
    /// Type, code and the second word, for IPv4.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (3, 0, 0),
            Self::Host => (3, 1, 0),
            Self::Port => (3, 3, 0),
            Self::Prohibited => (3, 13, 0),
            Self::TooBig(mtu) => (3, 4, mtu.into()),
        }
    }

    /// Type, code and the second word, for IPv6.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::Host => (1, 3, 0),
            Self::Port => (1, 4, 0),
            Self::TooBig(mtu) => (2, 0, mtu.into()),
        }
    }
}

/// The IP packet with the error about `original`, the start of an IP packet from `source` to
/// `destination`. It carries as much of `original` as the smallest MTU of the family allows.
pub(crate) fn unreachable(
    why: Unreachable,
    source: IpAddr,
    destination: IpAddr,
    original: &[u8],
) -> Vec<u8> {
    let v4 = source.is_ipv4();
    let room = if v4 { 576 - 28 } else { 1280 - 48 };
    let quoted = &original[..original.len().min(room)];
    let header = IpHeader {
        source: destination,
        destination: source,
        protocol: if v4 { protocol::ICMP } else { protocol::ICMPV6 },
        payload_bytes: 8 + quoted.len(),
    };
    let mut packet = vec![0; header.total_bytes()];
    let payload = header.write(&mut packet);
    let (kind, code, word) = if v4 { why.v4() } else { why.v6() };
    payload[0] = kind;
    payload[1] = code;
    payload[4..8].copy_from_slice(&word.to_be_bytes());
    payload[8..].copy_from_slice(quoted);
    let sum = if v4 {
        sum(payload)
    } else {
        pseudo_sum(header.source, header.destination, header.protocol, payload)
    };
    payload[2..4].copy_from_slice(&checksum(sum).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Packet;

    #[test]
    fn an_error_quotes_the_packet_and_has_a_right_checksum() {
        let original = [9; 2000];
        let v4 = unreachable(
            Unreachable::Prohibited,
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            &original,
        );
        let packet = Packet::parse_v4(&v4).unwrap();
        assert_eq!(packet.bytes.len(), 576);
        assert_eq!(packet.payload[..2], [3, 13]);
        assert_eq!(sum(packet.payload), 0xffff);
        let v6 = unreachable(
            Unreachable::Port,
            "fd00::1".parse().unwrap(),
            "fd00::2".parse().unwrap(),
            &original[..30],
        );
        let packet = Packet::parse_v6(&v6).unwrap();
        assert_eq!(packet.payload.len(), 38);
        assert_eq!(packet.payload[..2], [1, 4]);
        let sum = pseudo_sum(packet.source, packet.destination, 58, packet.payload);
        assert_eq!(sum, 0xffff);
    }
}
