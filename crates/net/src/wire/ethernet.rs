//! The Ethernet header. Layout: `[destination: 6][source: 6][type: u16 BE]`.
//! *Source:* IEEE 802.3, clause 3.

use super::be16;
use crate::config::Mac;

/// Bytes of the header.
pub(crate) const ETHERNET_BYTES: usize = 14;

/// The types that the stack reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EtherType {
    Ipv4,
    Arp,
    Ipv6,
}

/// A frame, split into header and payload.
#[derive(Debug)]
pub(crate) struct Ethernet<'a> {
    pub(crate) destination: Mac,
    pub(crate) source: Mac,
    /// Absent for a type that the stack does not read.
    pub(crate) kind: Option<EtherType>,
    pub(crate) payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Reads a frame; none if it is too short for the header.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        Some(Self {
            destination: *frame.first_chunk()?,
            source: *frame.get(6..)?.first_chunk()?,
            kind: match be16(frame, 12) {
                0x0800 => Some(EtherType::Ipv4),
                0x0806 => Some(EtherType::Arp),
                0x86dd => Some(EtherType::Ipv6),
                _ => None,
            },
            payload: frame.get(ETHERNET_BYTES..)?,
        })
    }
}

/// Writes the header to the front of `frame`, which has at least [`ETHERNET_BYTES`].
pub(crate) fn write_ethernet(frame: &mut [u8], destination: Mac, source: Mac, kind: EtherType) {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    let kind: u16 = match kind {
        EtherType::Ipv4 => 0x0800,
        EtherType::Arp => 0x0806,
        EtherType::Ipv6 => 0x86dd,
    };
    frame[12..14].copy_from_slice(&kind.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut frame = [0; 20];
        for kind in [EtherType::Ipv4, EtherType::Arp, EtherType::Ipv6] {
            write_ethernet(&mut frame, [1; 6], [2; 6], kind);
            let read = Ethernet::parse(&frame).unwrap();
            assert_eq!(read.destination, [1; 6]);
            assert_eq!(read.source, [2; 6]);
            assert_eq!(read.kind, Some(kind));
            assert_eq!(read.payload.len(), 6);
        }
        assert!(Ethernet::parse(&frame[..13]).is_none());
        frame[12] = 0x88;
        assert_eq!(Ethernet::parse(&frame).unwrap().kind, None);
    }
}
