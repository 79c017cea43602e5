//! Networks that no guest reaches under the profile `public`, line by line.
//!
//! *Source:* IANA IPv4 and IPv6 Special-Purpose Address Registries; RFC 6890. docs/network.md
//! repeats the table.

use std::net::IpAddr;

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
    // These wrap IPv4 addresses, also of the host itself, and a relay or translator may undo it.
    always("::ffff:0:0:0/96", "IPv4-translated"),
    always("64:ff9b::/96", "NAT64"),
    always("64:ff9b:1::/48", "local NAT64"),
    always("2001::/32", "Teredo"),
    always("2002::/16", "6to4"),
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
    // All but 2000::/3: IANA gives global unicast addresses out of that alone (RFC 4291, 2.4).
    line("::/3", "not global unicast"),
    line("4000::/2", "not global unicast"),
    line("8000::/1", "not global unicast"),
];

/// The line of [`RESERVED`] that `address` falls under.
pub(super) fn find(address: IpAddr) -> Option<&'static Reserved> {
    RESERVED.iter().find(|line| {
        // The table has fixed texts, and a test parses each.
        line.network
            .parse::<Cidr>()
            .is_ok_and(|cidr| cidr.contains(address))
    })
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
            // These begin with the unspecified address.
            let wide = ["::/96", "::/3"].contains(&line.network);
            assert!(earlier || wide, "{}", line.network);
        }
    }

    #[test]
    fn addresses_that_wrap_an_ipv4_address_are_denied_whatever_it_is() {
        for (address, expected) in [
            ("2002:7f00:1::1", Some("2002::/16")),
            ("2002:808:808::1", Some("2002::/16")),
            ("2001:0:808:808:0:0:f7f7:f7f7", Some("2001::/32")),
            ("::ffff:0:7f00:1", Some("::ffff:0:0:0/96")),
            ("::ffff:8.8.8.8", Some("::ffff:0:0/96")),
            ("::8.8.8.8", Some("::/96")),
            ("64:ff9b::8.8.8.8", Some("64:ff9b::/96")),
            ("1fff::1", Some("::/3")),
            ("4000::1", Some("4000::/2")),
            ("f000::1", Some("8000::/1")),
            ("2000::1", None),
            ("2606:4700::1111", None),
            ("2001:4860::8888", None),
            ("8.8.8.8", None),
        ] {
            let found = find(address.parse().unwrap()).map(|line| line.network);
            assert_eq!(found, expected, "{address}");
        }
    }
}
