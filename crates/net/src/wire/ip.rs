//! IPv4 and IPv6 headers as they come from the guest.
//!
//! *Source:* RFC 791, section 3.1; RFC 8200, sections 3 and 4.5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{be16, be32, build::sum, protocol};

/// Bytes of an IPv4 header without options.
const V4_BYTES: usize = 20;

/// Bytes of an IPv6 header.
const V6_BYTES: usize = 40;

/// Bytes of the fragment header of IPv6.
const FRAGMENT_BYTES: usize = 8;

/// Why a packet cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Lengths, version or header checksum are wrong.
    Malformed,
    /// An extension header that the stack does not follow.
    Unsupported,
}

/// A packet that came from the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// Header and payload, without padding of the link.
    pub(crate) bytes: &'a [u8],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) payload: &'a [u8],
    /// Present if the payload is a part only.
    pub(crate) fragment: Option<Fragment>,
}

/// Where a part of a payload belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// In bytes.
    pub(crate) offset: usize,
    /// Whether parts follow.
    pub(crate) more: bool,
}

impl<'a> Packet<'a> {
    /// Reads an IPv4 packet.
    pub(crate) fn parse_v4(bytes: &'a [u8]) -> Result<Self, Fault> {
        let first = *bytes.first().ok_or(Fault::Malformed)?;
        let header_bytes = usize::from(first & 0x0f) * 4;
        let total = usize::from(be16(bytes, 2));
        if first >> 4 != 4
            || header_bytes < V4_BYTES
            || total < header_bytes
            || bytes.len() < total
            || sum(&bytes[..header_bytes]) != 0xffff
        {
            return Err(Fault::Malformed);
        }
        let bytes = &bytes[..total];
        let flags = be16(bytes, 6);
        let fragment = Fragment {
            id: u32::from(be16(bytes, 4)),
            offset: usize::from(flags & 0x1fff) * 8,
            more: flags & 0x2000 != 0,
        };
        Ok(Self {
            bytes,
            source: Ipv4Addr::from_bits(be32(bytes, 12)).into(),
            destination: Ipv4Addr::from_bits(be32(bytes, 16)).into(),
            protocol: bytes[9],
            payload: &bytes[header_bytes..],
            fragment: (fragment.more || fragment.offset > 0).then_some(fragment),
        })
    }

    /// Reads an IPv6 packet. Of the extension headers only the one of fragments is followed.
    pub(crate) fn parse_v6(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len() < V6_BYTES || bytes[0] >> 4 != 6 {
            return Err(Fault::Malformed);
        }
        let total = V6_BYTES + usize::from(be16(bytes, 4));
        let bytes = bytes.get(..total).ok_or(Fault::Malformed)?;
        let mut packet = Self {
            bytes,
            source: v6_at(bytes, 8),
            destination: v6_at(bytes, 24),
            protocol: bytes[6],
            payload: &bytes[V6_BYTES..],
            fragment: None,
        };
        if packet.protocol == protocol::FRAGMENT {
            let header = packet.payload;
            if header.len() < FRAGMENT_BYTES {
                return Err(Fault::Malformed);
            }
            let place = be16(header, 2);
            packet.protocol = header[0];
            packet.payload = &header[FRAGMENT_BYTES..];
            packet.fragment = Some(Fragment {
                id: be32(header, 4),
                offset: usize::from(place & 0xfff8),
                more: place & 1 != 0,
            });
        }
        match packet.protocol {
            // Hop-by-hop options, routing, fragment, ESP, AH, destination options, mobility, HIP,
            // shim6.
            0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 => Err(Fault::Unsupported),
            _ => Ok(packet),
        }
    }
}

fn v6_at(bytes: &[u8], at: usize) -> IpAddr {
    let address = bytes.get(at..).and_then(|bytes| bytes.first_chunk::<16>());
    address
        .map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{IpHeader, udp::write_udp};

    fn packet(v6: bool) -> Vec<u8> {
        let (source, destination) = if v6 {
            ("[fd00::1]:1", "[fd00::2]:2")
        } else {
            ("10.0.0.1:1", "10.0.0.2:2")
        };
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let header = IpHeader::udp(source, destination, 3);
        let mut bytes = vec![0; header.total_bytes()];
        write_udp(&mut bytes, source, destination, b"abc");
        bytes
    }

    #[test]
    fn padding_is_cut_off() {
        let mut bytes = packet(false);
        bytes.resize(60, 0);
        let read = Packet::parse_v4(&bytes).unwrap();
        assert_eq!(read.bytes.len(), 31);
        assert_eq!(read.payload.len(), 11);
        let mut bytes = packet(true);
        bytes.resize(90, 0);
        assert_eq!(Packet::parse_v6(&bytes).unwrap().payload.len(), 11);
    }

    #[test]
    fn every_cut_is_malformed() {
        for length in 0..packet(false).len() {
            let bytes = &packet(false)[..length];
            assert_eq!(Packet::parse_v4(bytes).unwrap_err(), Fault::Malformed);
        }
        for length in 0..packet(true).len() {
            let bytes = &packet(true)[..length];
            assert_eq!(Packet::parse_v6(bytes).unwrap_err(), Fault::Malformed);
        }
    }

    #[test]
    fn a_wrong_header_checksum_is_malformed() {
        let mut bytes = packet(false);
        bytes[10] ^= 1;
        assert_eq!(Packet::parse_v4(&bytes).unwrap_err(), Fault::Malformed);
    }

    #[test]
    fn other_extension_headers_are_not_supported() {
        for header in [0, 43, 50, 51, 60, 135, 139, 140] {
            let mut bytes = packet(true);
            bytes[6] = header;
            assert_eq!(Packet::parse_v6(&bytes).unwrap_err(), Fault::Unsupported);
        }
    }
}
