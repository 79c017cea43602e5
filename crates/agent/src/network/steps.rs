//! What is to be changed at the interface, as requests to the kernel.
//!
//! *Source:* rtnetlink(7); linux/if_addr.h, linux/neighbour.h.

use std::{fmt, net::IpAddr};

use cofferdam_proto::{FailureKind, GuestNetwork};

use super::{message::Requests, socket::Socket};
use crate::failure::{OrFail, Result};

/// What a request to the kernel does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Up,
    Down,
    Address(IpAddr),
    Gateway(IpAddr),
    Route(IpAddr),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("Could not set up the interface"),
            Self::Down => f.write_str("Could not take the interface down"),
            Self::Address(address) => write!(f, "Could not set the address {address}"),
            Self::Gateway(gateway) => write!(f, "Could not enter the gateway {gateway}"),
            Self::Route(gateway) => write!(f, "Could not set the route through {gateway}"),
        }
    }
}

/// Requests to the kernel.
#[derive(Debug, Default)]
pub(super) struct Steps {
    requests: Requests,
    /// What each of them does.
    names: Vec<Step>,
}

impl Steps {
    pub(super) fn set_up(&mut self, index: u32, network: &GuestNetwork) {
        let up = link(index, true);
        let mtu = u32::from(network.mtu).to_ne_bytes();
        let attributes = [
            (libc::IFLA_ADDRESS, &network.mac[..]),
            (libc::IFLA_MTU, &mtu),
        ];
        self.add(Step::Up, libc::RTM_NEWLINK, &up, &attributes);
        for (address, prefix) in &network.addresses {
            self.address(libc::RTM_NEWADDR, index, *address, *prefix);
        }
        for gateway in &network.gateways {
            let bytes = octets(*gateway);
            let neighbour = neighbour(index, *gateway);
            self.add(
                Step::Gateway(*gateway),
                libc::RTM_NEWNEIGH,
                &neighbour,
                &[
                    (libc::NDA_DST, &bytes),
                    (libc::NDA_LLADDR, &network.gateway_mac),
                ],
            );
            let output = index.to_ne_bytes();
            self.add(
                Step::Route(*gateway),
                libc::RTM_NEWROUTE,
                &default_route(*gateway),
                &[(libc::RTA_OIF, &output), (libc::RTA_GATEWAY, &bytes)],
            );
        }
    }

    /// Puts addresses in the place of others; routes and neighbours stay.
    pub(super) fn readdress(&mut self, index: u32, old: &GuestNetwork, new: &GuestNetwork) {
        let (old, new) = (&old.addresses, &new.addresses);
        for (address, prefix) in new.iter().filter(|address| !old.contains(address)) {
            self.address(libc::RTM_NEWADDR, index, *address, *prefix);
        }
        for (address, prefix) in old.iter().filter(|address| !new.contains(address)) {
            self.address(libc::RTM_DELADDR, index, *address, *prefix);
        }
    }

    /// Taking the interface down removes its routes, and its IPv6 addresses.
    pub(super) fn take_down(&mut self, index: u32, network: &GuestNetwork) {
        let down = link(index, false);
        self.add(Step::Down, libc::RTM_NEWLINK, &down, &[]);
        for (address, prefix) in &network.addresses {
            if address.is_ipv4() {
                self.address(libc::RTM_DELADDR, index, *address, *prefix);
            }
        }
    }

    fn address(&mut self, kind: u16, index: u32, address: IpAddr, prefix: u8) {
        let bytes = octets(address);
        // `struct ifaddrmsg`: family, prefix length, flags, scope, interface.
        let no_test = u8::try_from(libc::IFA_F_NODAD).unwrap_or_default();
        let mut fixed = vec![family(address), prefix, no_test, libc::RT_SCOPE_UNIVERSE];
        fixed.extend_from_slice(&index.to_ne_bytes());
        let attributes = [(libc::IFA_LOCAL, &bytes[..]), (libc::IFA_ADDRESS, &bytes)];
        self.add(Step::Address(address), kind, &fixed, &attributes);
    }

    fn add(&mut self, step: Step, kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) {
        let new = [libc::RTM_NEWADDR, libc::RTM_NEWROUTE, libc::RTM_NEWNEIGH].contains(&kind);
        let create = if new {
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE
        } else {
            0
        };
        self.requests
            .push(kind, libc::NLM_F_ACK | create, fixed, attributes);
        self.names.push(step);
    }

    /// Hands the requests to the kernel.
    pub(super) fn take(&self, socket: &Socket) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let refused = socket.call(&self.requests);
        let refused = refused.or_fail(FailureKind::Network, || "Could not set up the network")?;
        let Some(first) = refused.first() else {
            return Ok(());
        };
        let step = usize::try_from(first.request).ok();
        let step = step.and_then(|step| self.names.get(step));
        let what = || step.map_or_else(String::new, ToString::to_string);
        Err(&first.reason).or_fail(FailureKind::Network, what)
    }
}

/// `struct ifinfomsg`: family, padding, type u16, index, flags, which flags change.
fn link(index: u32, up: bool) -> Vec<u8> {
    let flag = libc::IFF_UP.cast_unsigned();
    let flags = if up { flag } else { 0 };
    let words = [0, index, flags, flag];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct ndmsg`: family, 3 bytes of padding, index, state u16, flags, type.
fn neighbour(index: u32, address: IpAddr) -> Vec<u8> {
    let mut fixed = vec![family(address), 0, 0, 0];
    fixed.extend_from_slice(&index.to_ne_bytes());
    fixed.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    fixed.extend_from_slice(&[0, 0]);
    fixed
}

/// `struct rtmsg` of a default route: family, lengths of both prefixes, type of service, table,
/// protocol, scope, type, flags u32.
fn default_route(gateway: IpAddr) -> [u8; 12] {
    [
        family(gateway),
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}

fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u8::try_from(family).unwrap_or_default()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
