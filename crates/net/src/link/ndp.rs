//! Neighbour discovery for the addresses of the gateway, the host and the members of named networks.
//!
//! *Source:* RFC 4861, sections 4.3, 4.4 and 7.1.1.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    config::Config,
    wire::{IpHeader, Packet, checksum, protocol, pseudo_sum},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Bytes of a message before its options.
const MESSAGE_BYTES: usize = 24;

/// Whether `address` is good on one link only.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The IP packet that answers the neighbour solicitation in `packet`; none if it is another
/// message, or asks for another address.
pub(crate) fn answer(packet: &Packet<'_>, config: &Config) -> Option<Vec<u8>> {
    config.v6?;
    let message = packet.payload;
    // A hop limit of 255 proves that the message comes from this link.
    if message.len() < MESSAGE_BYTES
        || message[..2] != [SOLICITATION, 0]
        || packet.bytes.get(7) != Some(&255)
    {
        return None;
    }
    let sum = pseudo_sum(packet.source, packet.destination, protocol::ICMPV6, message);
    let target = Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?);
    if sum != 0xffff || !config.answers_for(target.into()) {
        return None;
    }
    // Without a source the guest asks whether the address is free: all nodes get the answer.
    let (destination, solicited) = if packet.source.is_unspecified() {
        (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(), 0)
    } else {
        (packet.source, 0x40)
    };
    let header = IpHeader {
        source: target.into(),
        destination,
        protocol: protocol::ICMPV6,
        payload_bytes: MESSAGE_BYTES + 8,
    };
    let mut answer = vec![0; header.total_bytes()];
    let payload = header.write(&mut answer);
    payload[0] = ADVERTISEMENT;
    // Router and override; solicited where somebody asked.
    payload[4] = 0x80 | 0x20 | solicited;
    payload[8..24].copy_from_slice(&target.octets());
    // Option: target link-layer address, one unit of eight bytes.
    payload[24..26].copy_from_slice(&[2, 1]);
    payload[26..32].copy_from_slice(&config.gateway_mac);
    let sum = pseudo_sum(header.source, header.destination, header.protocol, payload);
    payload[2..4].copy_from_slice(&checksum(sum).to_be_bytes());
    answer[7] = 255;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solicitation(source: &str, target: &str, hops: u8) -> Vec<u8> {
        let target: Ipv6Addr = target.parse().unwrap();
        let header = IpHeader {
            source: source.parse().unwrap(),
            destination: "ff02::1:ff00:1".parse().unwrap(),
            protocol: protocol::ICMPV6,
            payload_bytes: MESSAGE_BYTES,
        };
        let mut packet = vec![0; header.total_bytes()];
        let payload = header.write(&mut packet);
        payload[0] = SOLICITATION;
        payload[8..24].copy_from_slice(&target.octets());
        let sum = pseudo_sum(header.source, header.destination, header.protocol, payload);
        payload[2..4].copy_from_slice(&checksum(sum).to_be_bytes());
        packet[7] = hops;
        packet
    }

    fn answers(bytes: &[u8]) -> Option<Vec<u8>> {
        answer(
            &Packet::parse_v6(bytes).unwrap(),
            &Config::new([2, 0, 0, 0, 0, 5]),
        )
    }

    #[test]
    fn gateway_and_host_are_answered_and_no_other() {
        for source in ["fe80::5", "fd00:c0ff::f", "::"] {
            for (target, answered) in [
                ("fd00:c0ff::1", true),
                ("fd00:c0ff::2", true),
                ("fd00:c0ff::f", false),
                ("fe80::1", false),
            ] {
                let answer = answers(&solicitation(source, target, 255));
                assert_eq!(answer.is_some(), answered, "{source} {target}");
                let Some(answer) = answer else { continue };
                let packet = Packet::parse_v6(&answer).unwrap();
                assert_eq!(packet.payload[0], ADVERTISEMENT);
                assert_eq!(packet.source, target.parse::<IpAddr>().unwrap());
                let sum = pseudo_sum(packet.source, packet.destination, 58, packet.payload);
                assert_eq!(sum, 0xffff);
            }
        }
    }

    #[test]
    fn a_message_from_another_link_or_with_a_wrong_checksum_is_not_answered() {
        assert!(answers(&solicitation("fe80::5", "fd00:c0ff::1", 254)).is_none());
        let mut bytes = solicitation("fe80::5", "fd00:c0ff::1", 255);
        bytes[43] ^= 1;
        assert!(answers(&bytes).is_none());
    }
}
