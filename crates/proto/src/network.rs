//! The guest's end of its private link to the network stack of the host.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// A guest's network as an identity carries it.
///
/// All but the MAC address is encoded on its own. A start gives most guests what their template has
/// set up already, and a guest sees that from the bytes: under emulation it takes milliseconds to
/// decode them, and to write the names out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkIdentity {
    /// MAC address of the interface.
    pub mac: [u8; 6],
    settings: Bytes,
}

impl NetworkIdentity {
    /// Encodes a network.
    #[must_use]
    pub fn new(network: &GuestNetwork) -> Self {
        let settings = GuestNetwork {
            mac: [0; 6],
            ..network.clone()
        };
        Self {
            mac: network.mac,
            // Writing plain data to memory cannot fail, and no bytes are no network to a guest.
            settings: Bytes(postcard::to_stdvec(&settings).unwrap_or_default()),
        }
    }

    /// Whether all but the MAC address is the same.
    #[must_use]
    pub fn has_settings_of(&self, other: &Self) -> bool {
        self.settings == other.settings
    }

    /// The network; `None` when its bytes are none.
    #[must_use]
    pub fn decode(&self) -> Option<GuestNetwork> {
        let (network, rest) = postcard::take_from_bytes(&self.settings.0).ok()?;
        let network = GuestNetwork {
            mac: self.mac,
            ..network
        };
        rest.is_empty().then_some(network)
    }
}

/// Bytes that are read in one piece.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Whole)
    }
}

/// The network interface of a guest and the names that go with it. It is part of the identity, so
/// a fork gets its own before a process of the user runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// MAC address of the interface.
    pub mac: [u8; 6],
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u16,
    /// Addresses with the lengths of their prefixes, the preferred one of each family first.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// MAC address of the gateways. It is entered as permanent. The kernel drops the entry when the
    /// guest's own address changes, and asks by ARP when it sends the first packet.
    pub gateway_mac: [u8; 6],
    /// Servers in `/etc/resolv.conf`.
    pub dns_servers: Vec<IpAddr>,
    /// Domains that are searched, in `/etc/resolv.conf`.
    pub dns_search: Vec<String>,
    /// Options in `/etc/resolv.conf`.
    pub dns_options: Vec<String>,
    /// Further lines of `/etc/hosts`: an address and a name.
    pub hosts: Vec<(IpAddr, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> GuestNetwork {
        let address = IpAddr::from([198, 18, 0, 3]);
        GuestNetwork {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: vec![(address, 16)],
            gateways: vec![address],
            gateway_mac: [2; 6],
            dns_servers: vec![address],
            dns_search: vec!["example.com".to_owned()],
            dns_options: Vec::new(),
            hosts: vec![(address, "db".to_owned())],
        }
    }

    #[test]
    fn a_network_is_read_as_it_was_written() {
        let sent = NetworkIdentity::new(&network());
        let bytes = postcard::to_stdvec(&sent).unwrap();
        let received: NetworkIdentity = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(received, sent);
        assert_eq!(received.decode(), Some(network()));
    }

    #[test]
    fn the_mac_address_is_no_part_of_the_settings() {
        let one = NetworkIdentity::new(&network());
        let other = GuestNetwork {
            mac: [9; 6],
            ..network()
        };
        assert!(one.has_settings_of(&NetworkIdentity::new(&other)));
        let other = GuestNetwork {
            mtu: 9000,
            ..network()
        };
        assert!(!one.has_settings_of(&NetworkIdentity::new(&other)));
    }

    #[test]
    fn bytes_that_are_no_network_are_none() {
        let mut bad = NetworkIdentity::new(&network());
        bad.settings.0.push(0);
        assert_eq!(bad.decode(), None);
        bad.settings.0.truncate(3);
        assert_eq!(bad.decode(), None);
    }
}
