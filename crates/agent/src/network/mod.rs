//! The guest's network interface, set up as the identity says.
//!
//! There is no DHCP: the host sends addresses, routes and the gateway's MAC address with the
//! identity, and one system call hands all of it to the kernel. A copy of a machine first takes
//! the old addresses off and then ends the connections that its processes have inherited, since
//! nobody answers on them any more.
//!
//! *Source:* rtnetlink(7); linux/if_addr.h, linux/neighbour.h.

mod address;
mod connections;
mod message;
mod socket;

use std::{fs, net::IpAddr, rc::Rc};

use cofferdam_proto::{FailureKind, GuestNetwork, NetworkIdentity};

use self::{address::Control, message::Requests, socket::Socket};
use crate::{
    failure::{OrFail, Result, failure},
    identity::NetworkNames,
    log,
};

/// The one interface; the kernel names the first one so.
const INTERFACE: &str = "/sys/class/net/eth0";

/// No address is tested for a double or made up by the kernel: the link is private, and a start
/// would wait for the test. Source: Documentation/networking/ip-sysctl.rst.
///
/// Memberships in multicast groups are told once, and no router is looked for: nobody is there to
/// hear it, and a copy of a machine would send what its template had left to send.
const SETTINGS: [(&str, &str); 7] = [
    ("ipv4/igmp_qrv", "1"),
    ("ipv6/mld_qrv", "1"),
    ("ipv6/conf/eth0/router_solicitations", "0"),
    ("ipv6/conf/eth0/accept_dad", "0"),
    ("ipv6/conf/eth0/accept_ra", "0"),
    ("ipv6/conf/eth0/autoconf", "0"),
    ("ipv4/conf/eth0/accept_redirects", "0"),
];

/// The interface and what it was told.
#[derive(Debug)]
pub(crate) struct Network {
    /// `None`: the machine has none.
    interface: Option<Interface>,
    current: Option<Current>,
}

/// What the interface has.
#[derive(Debug)]
struct Current {
    identity: NetworkIdentity,
    network: GuestNetwork,
    names: Rc<NetworkNames>,
}

#[derive(Debug)]
struct Interface {
    /// Its number.
    index: u32,
    control: Control,
}

impl Interface {
    fn set_mac(&self, old: [u8; 6], new: [u8; 6]) -> Result<()> {
        if old == new {
            return Ok(());
        }
        let failed = || "Could not set the MAC address";
        let set = self.control.set_mac(new);
        set.or_fail(FailureKind::Network, failed)
    }

    /// Sets up a network in place of another one. Where the kernel's part of the two is the same,
    /// the interface stays up.
    fn change(&self, old: Option<&Current>, wanted: &NetworkIdentity) -> Result<Current> {
        let Some(network) = wanted.decode() else {
            let message = "The network's settings cannot be read";
            return Err(failure(FailureKind::Network, message));
        };
        match old.map(|old| &old.network) {
            Some(old) if differ_in_names_and_mac_alone(old, &network) => {
                self.set_mac(old.mac, network.mac)?;
            }
            old => {
                let mut steps = Steps::default();
                old.iter().for_each(|old| steps.take_down(self.index, old));
                steps.set_up(self.index, &network);
                steps.take()?;
            }
        }
        Ok(Current {
            identity: wanted.clone(),
            names: Rc::new(NetworkNames::of(&network)),
            network,
        })
    }

    fn take_down(&self, old: &Current) -> Result<()> {
        let mut steps = Steps::default();
        steps.take_down(self.index, &old.network);
        steps.take()
    }
}

impl Network {
    /// Finds the interface, and makes it ready to be set up.
    pub(crate) fn find() -> Self {
        let index = fs::read_to_string(format!("{INTERFACE}/ifindex"));
        let index = index.ok().and_then(|text| text.trim().parse().ok());
        let interface = index.and_then(|index| match Control::open() {
            Ok(control) => Some(Interface { index, control }),
            Err(error) => {
                log::error(&format!("Could not use the network interface: {error}"));
                None
            }
        });
        if interface.is_some() {
            for (name, value) in SETTINGS {
                if let Err(error) = fs::write(format!("/proc/sys/net/{name}"), value) {
                    log::error(&format!("Could not set `{name}`: {error}"));
                }
            }
        }
        Self {
            interface,
            current: None,
        }
    }

    /// Sets the interface up as `wanted` says. `None` takes it down if it was up.
    ///
    /// # Errors
    /// [`FailureKind::Network`] when there is no interface, or the kernel refuses a setting.
    pub(crate) fn adopt(&mut self, wanted: Option<&NetworkIdentity>) -> Result<()> {
        if self.current.is_none() && wanted.is_none() {
            return Ok(());
        }
        let Some(interface) = &self.interface else {
            let message = "The machine has no network interface";
            return Err(failure(FailureKind::Network, message));
        };
        match (&mut self.current, wanted) {
            (Some(current), Some(wanted)) if current.identity.has_settings_of(wanted) => {
                interface.set_mac(current.identity.mac, wanted.mac)?;
                current.identity.mac = wanted.mac;
            }
            (current, wanted) => {
                let old = current.take();
                *current = wanted
                    .map(|wanted| interface.change(old.as_ref(), wanted))
                    .transpose()?;
                if let (Some(old), None) = (old, wanted) {
                    interface.take_down(&old)?;
                }
            }
        }
        Ok(())
    }

    /// The names that go with the network.
    pub(crate) fn names(&self) -> Option<Rc<NetworkNames>> {
        self.current
            .as_ref()
            .map(|current| Rc::clone(&current.names))
    }

    /// Ends the TCP connections that go through the interface. For a machine that was copied: the
    /// connections are the other machine's.
    pub(crate) fn end_connections(&self) {
        if self.interface.is_none() {
            return;
        }
        let own = self.current.iter();
        let own = own.flat_map(|current| &current.network.addresses);
        let own: Vec<IpAddr> = own.map(|(address, _)| *address).collect();
        if let Err(error) = connections::end_all(&own) {
            // They end when they are used next: the host's stack does not know them.
            log::error(&format!("Could not end connections: {error}"));
        }
    }
}

/// Whether the kernel's part of two networks is the same but for the MAC address.
fn differ_in_names_and_mac_alone(old: &GuestNetwork, new: &GuestNetwork) -> bool {
    old.mtu == new.mtu
        && old.addresses == new.addresses
        && old.gateways == new.gateways
        && old.gateway_mac == new.gateway_mac
}

/// Requests to the kernel, each with the sentence for its failure.
#[derive(Debug, Default)]
struct Steps {
    requests: Requests,
    names: Vec<String>,
}

impl Steps {
    fn set_up(&mut self, index: u32, network: &GuestNetwork) {
        let up = link(index, true);
        let mtu = u32::from(network.mtu).to_ne_bytes();
        let attributes = [
            (libc::IFLA_ADDRESS, &network.mac[..]),
            (libc::IFLA_MTU, &mtu),
        ];
        self.add(
            "Could not set up the interface",
            libc::RTM_NEWLINK,
            &up,
            &attributes,
        );
        for (address, prefix) in &network.addresses {
            self.address(libc::RTM_NEWADDR, index, *address, *prefix);
        }
        for gateway in &network.gateways {
            let bytes = octets(*gateway);
            let neighbour = neighbour(index, *gateway);
            self.add(
                &format!("Could not enter the gateway {gateway}"),
                libc::RTM_NEWNEIGH,
                &neighbour,
                &[
                    (libc::NDA_DST, &bytes),
                    (libc::NDA_LLADDR, &network.gateway_mac),
                ],
            );
            let output = index.to_ne_bytes();
            self.add(
                &format!("Could not set the route through {gateway}"),
                libc::RTM_NEWROUTE,
                &default_route(*gateway),
                &[(libc::RTA_OIF, &output), (libc::RTA_GATEWAY, &bytes)],
            );
        }
    }

    /// Taking the interface down removes its routes, and its IPv6 addresses.
    fn take_down(&mut self, index: u32, network: &GuestNetwork) {
        self.add(
            "Could not take the interface down",
            libc::RTM_NEWLINK,
            &link(index, false),
            &[],
        );
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
        self.add(
            &format!("Could not set the address {address}"),
            kind,
            &fixed,
            &attributes,
        );
    }

    fn add(&mut self, name: &str, kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) {
        let new = [libc::RTM_NEWADDR, libc::RTM_NEWROUTE, libc::RTM_NEWNEIGH].contains(&kind);
        let create = if new {
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE
        } else {
            0
        };
        self.requests
            .push(kind, libc::NLM_F_ACK | create, fixed, attributes);
        self.names.push(name.to_owned());
    }

    /// Hands the requests to the kernel.
    fn take(&self) -> Result<()> {
        let failed = || "Could not set up the network";
        let socket = Socket::open(None).or_fail(FailureKind::Network, failed)?;
        let refused = socket.call(&self.requests);
        let refused = refused.or_fail(FailureKind::Network, failed)?;
        let Some(first) = refused.first() else {
            return Ok(());
        };
        let step = usize::try_from(first.request).ok();
        let step = step.and_then(|step| self.names.get(step));
        let what = step.map_or("Could not set up the network", String::as_str);
        Err(&first.reason).or_fail(FailureKind::Network, || what)
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
