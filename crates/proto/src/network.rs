//! The guest's end of its private link to the network stack of the host.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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
    /// MAC address of the gateways. It is entered as permanent, so that no start waits for ARP.
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
