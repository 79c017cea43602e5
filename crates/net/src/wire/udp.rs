//! UDP datagrams. Layout: `[source: u16][destination: u16][length: u16][checksum: u16][data]`.
//! *Source:* RFC 768.

use std::net::SocketAddr;

use super::{
    be16,
    build::{IpHeader, checksum, pseudo_sum},
    ip::Packet,
    protocol,
};

/// Bytes of the header.
const UDP_BYTES: usize = 8;

/// A datagram that came from the guest.
#[derive(Debug)]
pub(crate) struct Datagram<'a> {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) data: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the datagram in `packet`; none if lengths or checksum are wrong.
    pub(crate) fn parse(packet: &Packet<'a>) -> Option<Self> {
        let length = usize::from(be16(packet.payload, 4));
        if length < UDP_BYTES {
            return None;
        }
        let bytes = packet.payload.get(..length)?;
        // IPv4 allows datagrams without a checksum.
        let unchecked = be16(bytes, 6) == 0 && packet.source.is_ipv4();
        let sum = || pseudo_sum(packet.source, packet.destination, protocol::UDP, bytes);
        if !unchecked && sum() != 0xffff {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(packet.source, be16(bytes, 0)),
            destination: SocketAddr::new(packet.destination, be16(bytes, 2)),
            data: &bytes[UDP_BYTES..],
        })
    }
}

/// Writes IP header, UDP header and data; `packet` has exactly the size of all three.
pub(crate) fn write_udp(
    packet: &mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    data: &[u8],
) {
    let header = IpHeader::udp(source, destination, data.len());
    let payload = header.write(packet);
    let length = u16::try_from(UDP_BYTES + data.len()).unwrap_or(u16::MAX);
    payload[..2].copy_from_slice(&source.port().to_be_bytes());
    payload[2..4].copy_from_slice(&destination.port().to_be_bytes());
    payload[4..6].copy_from_slice(&length.to_be_bytes());
    payload[6..8].fill(0);
    payload[UDP_BYTES..].copy_from_slice(data);
    let sum = pseudo_sum(source.ip(), destination.ip(), protocol::UDP, payload);
    // A checksum of 0 means none, so it is sent as its other form.
    let check = match checksum(sum) {
        0 => 0xffff,
        check => check,
    };
    payload[6..8].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        for (source, destination) in [
            ("10.0.0.1:1000", "10.0.0.2:53"),
            ("[fd00::1]:1000", "[fd00::2]:53"),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let mut bytes = vec![0; IpHeader::udp(source, destination, 3).total_bytes()];
            write_udp(&mut bytes, source, destination, b"abc");
            let packet = if source.is_ipv4() {
                Packet::parse_v4(&bytes)
            } else {
                Packet::parse_v6(&bytes)
            };
            let packet = packet.unwrap();
            let read = Datagram::parse(&packet).unwrap();
            assert_eq!(read.source, source);
            assert_eq!(read.destination, destination);
            assert_eq!(read.data, b"abc");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            let packet = if source.is_ipv4() {
                Packet::parse_v4(&bytes)
            } else {
                Packet::parse_v6(&bytes)
            };
            assert!(Datagram::parse(&packet.unwrap()).is_none());
        }
    }
}
