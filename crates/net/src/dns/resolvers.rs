//! The host's resolvers, as its `resolv.conf` names them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::PORT;

/// Where hosts name them.
const FILE: &str = "/etc/resolv.conf";

/// Resolvers that are used; the C library uses as many.
const MAX: usize = 3;

/// The host's resolvers for [`Config::resolvers`](crate::Config::resolvers): those of
/// `/etc/resolv.conf`, or the host's own loopback where there is none. *Source:* resolv.conf(5).
///
/// # Blocking
/// Reads a file.
#[must_use]
pub fn host_resolvers() -> Vec<SocketAddr> {
    parse(&fs::read_to_string(FILE).unwrap_or_default())
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // An address of one link only makes sense with its interface, which sockets here lack.
        let address: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    };
    let mut found: Vec<_> = text.lines().filter_map(address).take(MAX).collect();
    if found.is_empty() {
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_a_name_server_count() {
        let text = "# nameserver 9.9.9.9\nsearch a.org\nnameserver 1.1.1.1\n\
                    nameserver\tfd00::1\nnameserver fe80::1%eth0\noptions edns0\n";
        let expected = ["1.1.1.1:53", "[fd00::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(parse(text), expected);
        let many = "nameserver 1.1.1.1\n".repeat(9);
        assert_eq!(parse(&many).len(), MAX);
        assert_eq!(parse(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
