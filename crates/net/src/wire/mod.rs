//! Headers on the wire: Ethernet, IPv4, IPv6, UDP and ICMP, read and written.
//!
//! Only bytes here, no sockets and no state but the reassembly of fragments. TCP headers are
//! smoltcp's business, besides the few fields that choose a flow.

mod build;
mod ethernet;
mod fragment;
mod icmp;
mod ip;
mod reassembly;
mod tcp;
mod udp;

pub(crate) use build::{IpHeader, checksum, pseudo_sum, sum};
pub(crate) use ethernet::{ETHERNET_BYTES, EtherType, Ethernet, write_ethernet};
pub(crate) use fragment::split;
pub(crate) use icmp::{Unreachable, unreachable};
pub(crate) use ip::{Fault, Packet};
pub(crate) use reassembly::{Reassembled, Reassembly};
pub(crate) use tcp::{Segment, reset_for};
pub(crate) use udp::{Datagram, write_udp};

/// IP protocol numbers. *Source:* IANA, Assigned Internet Protocol Numbers.
pub(crate) mod protocol {
    /// ICMP for IPv4.
    pub(crate) const ICMP: u8 = 1;
    /// TCP.
    pub(crate) const TCP: u8 = 6;
    /// UDP.
    pub(crate) const UDP: u8 = 17;
    /// The fragment header of IPv6.
    pub(crate) const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub(crate) const ICMPV6: u8 = 58;
}

/// The 16-bit big-endian number at `at`; 0 past the end.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// The 32-bit big-endian number at `at`; 0 past the end.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
