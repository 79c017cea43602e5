//! ARP for the addresses of the gateway, the host and the members of named networks. *Source:* RFC 826; RFC 5227.

use std::net::Ipv4Addr;

use crate::config::Config;

/// Bytes of a message about Ethernet and IPv4.
const ARP_BYTES: usize = 28;

/// The result of reading a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arp {
    /// The answer to send.
    Answer([u8; ARP_BYTES]),
    /// It asks for another address, or is an answer.
    Ignored,
    /// It says that the guest has another address than its own.
    Spoofed,
    /// It is no message.
    Malformed,
}

/// Reads a message from the guest. Layout: `[hardware: u16][protocol: u16][lengths: u8, u8]
/// [operation: u16][sender MAC][sender IP][target MAC][target IP]`.
pub(crate) fn answer(message: &[u8], config: &Config) -> Arp {
    let Some(message) = message.first_chunk::<ARP_BYTES>() else {
        return Arp::Malformed;
    };
    if config.v4.is_none() {
        return Arp::Ignored;
    }
    if message[..6] != [0, 1, 8, 0, 6, 4] {
        return Arp::Malformed;
    }
    let address = |at: usize| {
        Ipv4Addr::new(
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        )
    };
    let (sender, target) = (address(14), address(24));
    // An address of zeros asks whether another machine has the guest's address (RFC 5227).
    let known = config.is_guest(sender.into()) || sender.is_unspecified();
    if message[8..14] != config.guest_mac || !known {
        return Arp::Spoofed;
    }
    if message[6..8] != [0, 1] || !config.answers_for(target.into()) {
        return Arp::Ignored;
    }
    let mut answer = *message;
    answer[7] = 2;
    answer[8..14].copy_from_slice(&config.gateway_mac);
    answer[14..18].copy_from_slice(&target.octets());
    answer[18..24].copy_from_slice(&config.guest_mac);
    answer[24..28].copy_from_slice(&sender.octets());
    Arp::Answer(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 5];

    fn request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut message = vec![0, 1, 8, 0, 6, 4, 0, 1];
        message.extend(GUEST);
        message.extend(sender);
        message.extend([0; 6]);
        message.extend(target);
        message
    }

    #[test]
    fn gateway_and_host_are_answered_and_no_other() {
        let config = Config::new(GUEST);
        for (target, answered) in [
            ([10, 0, 2, 1], true),
            ([10, 0, 2, 2], true),
            ([10, 0, 2, 15], false),
            ([10, 0, 2, 99], false),
            ([8, 8, 8, 8], false),
        ] {
            match answer(&request([10, 0, 2, 15], target), &config) {
                Arp::Answer(message) => {
                    assert!(answered, "{target:?}");
                    assert_eq!(message[7], 2);
                    assert_eq!(message[8..14], config.gateway_mac);
                    assert_eq!(message[14..18], target);
                    assert_eq!(message[24..], [10, 0, 2, 15]);
                }
                other => assert!(!answered && other == Arp::Ignored, "{target:?}"),
            }
        }
    }

    #[test]
    fn a_foreign_sender_is_spoofed_and_a_cut_message_malformed() {
        let config = Config::new(GUEST);
        let message = request([10, 0, 2, 16], [10, 0, 2, 1]);
        assert_eq!(answer(&message, &config), Arp::Spoofed);
        let mut message = request([10, 0, 2, 15], [10, 0, 2, 1]);
        message[13] ^= 1;
        assert_eq!(answer(&message, &config), Arp::Spoofed);
        assert_eq!(answer(&message[..27], &config), Arp::Malformed);
        message[0] = 1;
        assert_eq!(answer(&message, &config), Arp::Malformed);
    }
}
