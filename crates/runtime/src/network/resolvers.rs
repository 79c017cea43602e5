//! The resolvers of the host, which the gateway of a sandbox asks.
//!
//! *Source:* resolv.conf(5).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cofferdam_base::fs;

const FILE: &str = "/etc/resolv.conf";

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Most servers that are asked, as in glibc (`MAXNS` of resolv.h).
const MAX_SERVERS: usize = 3;

/// The servers of the host; the one on the loopback if there is no file or none in it.
pub(super) fn of_host() -> Vec<SocketAddr> {
    let text = fs::read_bounded(FILE.as_ref(), MAX_BYTES).unwrap_or_default();
    let servers = servers(&String::from_utf8_lossy(&text));
    if servers.is_empty() {
        return vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
    }
    servers
}

fn servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<IpAddr> {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        // A link-local address has its interface behind `%`; it cannot be asked without one.
        words.next().filter(|_| is_server)?.parse().ok()
    };
    let all = text.lines().filter_map(address);
    all.take(MAX_SERVERS)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order_and_what_else_there_is_is_left_out() {
        let text = "# a comment\nsearch example.com\nnameserver 192.0.2.1\n\
                    nameserver fe80::1%eth0\n nameserver 2001:db8::1\noptions edns0\n";
        let found: Vec<_> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert_eq!(servers(&"nameserver 192.0.2.1\n".repeat(9)).len(), 3);
        assert!(servers("nameserver\nnameservers 1.2.3.4\n").is_empty());
    }
}
