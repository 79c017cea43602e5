//! The addresses of the host itself, which no guest reaches unless a rule says so.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::error::{Result, io};

/// Local IPv4 addresses and routes of the calling process's network namespace.
const V4_FILE: &str = "/proc/net/fib_trie";

/// IPv6 addresses of the interfaces.
const V6_FILE: &str = "/proc/net/if_inet6";

/// Every address of every interface of this host, loopback included.
///
/// A host's addresses change; call it again when the host moves to another network.
///
/// # Blocking
/// Reads two files of `/proc`.
///
/// # Errors
/// `Io` when the kernel's table of IPv4 addresses cannot be read. A host without IPv6 has no
/// table of it, which is no error.
pub fn host_addresses() -> Result<Vec<IpAddr>> {
    let v4 = fs::read_to_string(V4_FILE)
        .map_err(|error| io(format!("Could not read `{V4_FILE}`"), error))?;
    let v6 = fs::read_to_string(V6_FILE).unwrap_or_default();
    let mut all: BTreeSet<IpAddr> = parse_v4(&v4).into_iter().map(IpAddr::from).collect();
    all.extend(parse_v6(&v6).into_iter().map(IpAddr::from));
    Ok(all.into_iter().collect())
}

/// The addresses with a line `/32 host LOCAL` below them.
fn parse_v4(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last);
        }
    }
    found
}

/// The first column: 32 hexadecimal digits.
fn parse_v6(text: &str) -> Vec<Ipv6Addr> {
    let first = |line: &str| {
        let digits = line.split_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        Some(Ipv6Addr::from_bits(bits))
    };
    text.lines().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_told_from_routes() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    Local:\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n\
                    \x20       /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(
            parse_v4(text),
            [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]
        );
    }

    #[test]
    fn ipv6_addresses_are_read_from_their_digits() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe800000000000000000000000000009 02 40 20 80     eth0\n";
        assert_eq!(
            parse_v6(text),
            [Ipv6Addr::LOCALHOST, "fe80::9".parse().unwrap()]
        );
    }

    #[test]
    fn loopback_is_an_address_of_this_host() {
        let all = host_addresses().unwrap();
        assert!(all.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)), "{all:?}");
    }
}
