//! The few fields of a TCP header that choose a flow, and the reset that refuses one.
//!
//! *Source:* RFC 9293, sections 3.1 and 3.10.7.1.

use std::net::SocketAddr;

use super::{
    be16, be32,
    build::{IpHeader, checksum, pseudo_sum},
    ip::Packet,
    protocol,
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Bytes of a header without options.
const TCP_BYTES: usize = 20;

/// The fields of a segment from the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    data_bytes: usize,
}

impl Segment {
    /// Reads the header in `packet`; none if it is cut.
    pub(crate) fn parse(packet: &Packet<'_>) -> Option<Self> {
        let bytes = packet.payload;
        if bytes.len() < TCP_BYTES {
            return None;
        }
        let header_bytes = usize::from(bytes[12] >> 4) * 4;
        if header_bytes < TCP_BYTES || header_bytes > bytes.len() {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(packet.source, be16(bytes, 0)),
            destination: SocketAddr::new(packet.destination, be16(bytes, 2)),
            sequence: be32(bytes, 4),
            acknowledgement: be32(bytes, 8),
            flags: bytes[13],
            data_bytes: bytes.len() - header_bytes,
        })
    }

    /// Whether it says what has arrived, and nothing else.
    pub(crate) fn is_acknowledgement_alone(&self) -> bool {
        self.flags & (SYN | ACK | FIN | RST) == ACK && self.data_bytes == 0
    }

    /// Whether it asks for a new connection.
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Whether it is a reset.
    pub(crate) fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }

    /// Bytes that it takes in the sequence.
    fn length(&self) -> u32 {
        let data = u32::try_from(self.data_bytes).unwrap_or(u32::MAX);
        data + u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0)
    }
}

/// The IP packet with the reset that answers `segment`; none if `segment` is a reset itself.
pub(crate) fn reset_for(segment: &Segment) -> Option<Vec<u8>> {
    if segment.is_reset() {
        return None;
    }
    let header = IpHeader {
        source: segment.destination.ip(),
        destination: segment.source.ip(),
        protocol: protocol::TCP,
        payload_bytes: TCP_BYTES,
    };
    let mut packet = vec![0; header.total_bytes()];
    let payload = header.write(&mut packet);
    payload[..2].copy_from_slice(&segment.destination.port().to_be_bytes());
    payload[2..4].copy_from_slice(&segment.source.port().to_be_bytes());
    if segment.flags & ACK != 0 {
        payload[4..8].copy_from_slice(&segment.acknowledgement.to_be_bytes());
        payload[13] = RST;
    } else {
        let next = segment.sequence.wrapping_add(segment.length());
        payload[8..12].copy_from_slice(&next.to_be_bytes());
        payload[13] = RST | ACK;
    }
    payload[12] = 5 << 4;
    let sum = pseudo_sum(header.source, header.destination, protocol::TCP, payload);
    payload[16..18].copy_from_slice(&checksum(sum).to_be_bytes());
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8) -> Segment {
        Segment {
            source: "10.0.0.1:1000".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            sequence: u32::MAX,
            acknowledgement: 77,
            flags,
            data_bytes: 3,
        }
    }

    #[test]
    fn a_syn_is_refused_with_an_acknowledgement_of_all_that_it_has() {
        let packet = reset_for(&segment(SYN)).unwrap();
        let packet = Packet::parse_v4(&packet).unwrap();
        let reset = Segment::parse(&packet).unwrap();
        assert_eq!(reset.flags, RST | ACK);
        assert_eq!(reset.acknowledgement, 3);
        assert_eq!(reset.destination.port(), 1000);
        let sum = pseudo_sum(
            packet.source,
            packet.destination,
            protocol::TCP,
            packet.payload,
        );
        assert_eq!(sum, 0xffff);
    }

    #[test]
    fn a_segment_with_an_acknowledgement_is_reset_at_that_place() {
        let packet = reset_for(&segment(ACK)).unwrap();
        let reset = Segment::parse(&Packet::parse_v4(&packet).unwrap()).unwrap();
        assert_eq!(reset.flags, RST);
        assert_eq!(reset.sequence, 77);
    }

    #[test]
    fn a_reset_is_not_answered() {
        assert!(reset_for(&segment(RST)).is_none());
        assert!(reset_for(&segment(RST | ACK)).is_none());
    }
}
