//! Networks that no guest reaches under the profile `public`, line by line.
//!
//! *Source:* IANA IPv4 and IPv6 Special-Purpose Address Registries; RFC 6890. docs/network.md
//! repeats the table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cidr::Cidr;

/// A network of [`RESERVED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The network, for example `10.0.0.0/8`.
    pub network: &'static str,
    /// Its name in a sentence.
    pub name: &'static str,
    /// Whether `all` denies it too: it is no unicast network, or the host itself.
    pub always: bool,
}

const fn line(network: &'static str, name: &'static str) -> Reserved {
    Reserved {
        network,
        name,
        always: false,
    }
}

const fn always(network: &'static str, name: &'static str) -> Reserved {
    Reserved {
        network,
        name,
        always: true,
    }
}

/// Every network that `public` denies. The more special one comes first where two overlap.
pub const RESERVED: &[Reserved] = &[
    always("0.0.0.0/8", "this network"),
    line("10.0.0.0/8", "private"),
    line("100.64.0.0/10", "shared (carrier-grade NAT)"),
    always("127.0.0.0/8", "loopback"),
    line("169.254.0.0/16", "link-local (and cloud metadata)"),
    line("172.16.0.0/12", "private"),
    line("192.0.0.0/24", "protocol assignments"),
    line("192.0.2.0/24", "documentation"),
    line("192.88.99.0/24", "6to4 relay"),
    line("192.168.0.0/16", "private"),
    line("198.18.0.0/15", "benchmarks"),
    line("198.51.100.0/24", "documentation"),
    line("203.0.113.0/24", "documentation"),
    always("224.0.0.0/4", "multicast"),
    always("255.255.255.255/32", "broadcast"),
    always("240.0.0.0/4", "reserved"),
    always("::/128", "unspecified"),
    always("::1/128", "loopback"),
    always("::ffff:0:0/96", "IPv4-mapped"),
    always("::/96", "IPv4-compatible"),
    line("64:ff9b::/96", "NAT64"),
    line("64:ff9b:1::/48", "local NAT64"),
    line("100::/64", "discard"),
    line("2001:2::/48", "benchmarks"),
    line("2001:10::/28", "ORCHID"),
    line("2001:db8::/32", "documentation"),
    line("3fff::/20", "documentation"),
    line("5f00::/16", "segment routing"),
    line("fc00::/7", "private (unique local)"),
    line("fe80::/10", "link-local"),
    line("fec0::/10", "site-local"),
    always("ff00::/8", "multicast"),
];

/// The line of [`RESERVED`] that `address` falls under. An IPv6 address that only wraps an IPv4
/// one (6to4, Teredo) falls under the line of that one.
pub(super) fn find(address: IpAddr) -> Option<&'static Reserved> {
    let own = RESERVED.iter().find(|line| {
        // The table has fixed texts, and a test parses each.
        line.network
            .parse::<Cidr>()
            .is_ok_and(|cidr| cidr.contains(address))
    });
    own.or_else(|| {
        embedded(address)
            .into_iter()
            .find_map(|address| find(address.into()))
    })
}

/// The IPv4 addresses that an IPv6 address wraps. *Source:* RFC 3056, section 2 (6to4); RFC 4380,
/// section 4 (Teredo: server, then the client with all bits turned).
fn embedded(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return Vec::new();
    };
    let bits = Ipv6Addr::to_bits(address);
    let part = |shift: u32| u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or(0);
    if address.segments()[0] == 0x2002 {
        vec![Ipv4Addr::from_bits(part(80))]
    } else if address.segments()[..2] == [0x2001, 0] {
        vec![Ipv4Addr::from_bits(part(64)), Ipv4Addr::from_bits(!part(0))]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_network_that_finds_itself() {
        for line in RESERVED {
            let cidr: Cidr = line.network.parse().unwrap();
            let first = line.network.split('/').next().unwrap();
            let found = find(first.parse().unwrap()).unwrap();
            let earlier = cidr.contains(first.parse().unwrap()) && found.network == line.network;
            // `::/96` begins with the unspecified address.
            assert!(earlier || line.network == "::/96", "{}", line.network);
        }
    }

    #[test]
    fn wrapped_ipv4_addresses_fall_under_the_line_of_ipv4() {
        for (address, expected) in [
            ("2002:7f00:1::1", Some("127.0.0.0/8")),
            ("2002:a9fe:a9fe::", Some("169.254.0.0/16")),
            ("2002:808:808::1", None),
            ("2001:0:a00:1:0:0:f7f7:f7f7", Some("10.0.0.0/8")),
            ("2001:0:808:808:0:0:5601:5601", Some("169.254.0.0/16")),
            ("2001:0:808:808:0:0:f7f7:f7f7", None),
            ("::ffff:8.8.8.8", Some("::ffff:0:0/96")),
            ("::8.8.8.8", Some("::/96")),
            ("64:ff9b::8.8.8.8", Some("64:ff9b::/96")),
            ("2606:4700::1111", None),
            ("8.8.8.8", None),
        ] {
            let found = find(address.parse().unwrap()).map(|line| line.network);
            assert_eq!(found, expected, "{address}");
        }
    }
}
