//! IP headers that the stack sends, and the Internet checksum.
//!
//! *Source:* RFC 791, RFC 8200, RFC 1071.

use std::net::{IpAddr, SocketAddr};

use super::protocol;

/// Hop limit of packets to the guest.
const HOP_LIMIT: u8 = 64;

/// An IP header that is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpHeader {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) payload_bytes: usize,
}

impl IpHeader {
    /// The header before a UDP datagram with `data_bytes` of data.
    pub(crate) fn udp(source: SocketAddr, destination: SocketAddr, data_bytes: usize) -> Self {
        Self {
            source: source.ip(),
            destination: destination.ip(),
            protocol: protocol::UDP,
            payload_bytes: 8 + data_bytes,
        }
    }

    /// Largest payload of a packet to `destination`. The length of IPv4 counts the header, that of
    /// IPv6 does not.
    pub(crate) fn max_payload_bytes(destination: IpAddr) -> usize {
        usize::from(u16::MAX) - if destination.is_ipv4() { 20 } else { 0 }
    }

    /// Bytes of the header.
    pub(crate) fn bytes(&self) -> usize {
        if self.destination.is_ipv4() { 20 } else { 40 }
    }

    /// Bytes of header and payload.
    pub(crate) fn total_bytes(&self) -> usize {
        self.bytes() + self.payload_bytes
    }

    /// Writes the header to the front of `packet` and returns the room for the payload. Lengths
    /// that a header cannot carry are cut; callers check them before.
    pub(crate) fn write<'a>(&self, packet: &'a mut [u8]) -> &'a mut [u8] {
        let (header, payload) = packet.split_at_mut(self.bytes());
        header.fill(0);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header[0] = 0x45;
                header[2..4].copy_from_slice(&saturate(self.total_bytes()).to_be_bytes());
                // Don't fragment: the link has one hop.
                header[6] = 0x40;
                header[8] = HOP_LIMIT;
                header[9] = self.protocol;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let check = checksum(sum(header));
                header[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (source, destination) => {
                header[0] = 0x60;
                header[4..6].copy_from_slice(&saturate(self.payload_bytes).to_be_bytes());
                header[6] = self.protocol;
                header[7] = HOP_LIMIT;
                header[8..24].copy_from_slice(&octets6(source));
                header[24..40].copy_from_slice(&octets6(destination));
            }
        }
        payload
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The ones' complement sum of 16-bit big-endian words; an odd last byte is padded with zero.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum();
    if let [last] = rest {
        total += u64::from(*last) << 8;
    }
    fold(total)
}

/// Folds carries back in.
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// The checksum that a header carries for `sum`.
pub(crate) fn checksum(sum: u16) -> u16 {
    !sum
}

/// The sum of the pseudo header and `bytes`. *Source:* RFC 768, RFC 8200 section 8.1.
pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            u64::from(sum(&source.octets())) + u64::from(sum(&destination.octets()))
        }
        (source, destination) => {
            u64::from(sum(&octets6(source))) + u64::from(sum(&octets6(destination)))
        }
    };
    let length = u64::try_from(bytes.len()).unwrap_or(0);
    fold(addresses + u64::from(protocol) + length + u64::from(sum(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_example_in_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(sum(&bytes[..7]), sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0]));
    }
}
