//! The guest's network interface, set up as the identity says.
//!
//! There is no DHCP: the host sends addresses, routes and the gateway's MAC address with the
//! identity, and one system call hands all of it to the kernel. A copy of a machine first takes
//! the old addresses off and then ends the connections that its processes have inherited, since
//! nobody answers on them any more.
//!
//! *Source:* rtnetlink(7).

mod address;
mod connections;
mod message;
mod socket;
mod steps;

use std::{fs, io, net::IpAddr, rc::Rc};

use cofferdam_proto::{FailureKind, GuestNetwork, NetworkIdentity};

use self::{address::Control, socket::Socket, steps::Steps};
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
/// The kernel reports its multicast groups once and asks for no router. The link has neither a
/// multicast listener nor a router, and a copy of a machine would send the reports that its template
/// had not sent yet.
///
/// An address that is added beside another one takes its place when that one goes; without this it
/// would go too.
const SETTINGS: [(&str, &str); 8] = [
    ("ipv4/conf/eth0/promote_secondaries", "1"),
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
    // Open from the template on: a copy of a machine has them at once.
    control: Control,
    routes: Socket,
    diagnosis: Socket,
}

impl Interface {
    fn open(index: u32) -> io::Result<Self> {
        Ok(Self {
            index,
            control: Control::open()?,
            routes: Socket::open(None)?,
            diagnosis: connections::socket()?,
        })
    }

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
        let mut steps = Steps::default();
        match old.map(|old| &old.network) {
            Some(old) if have_one_gateway(old, &network) => {
                self.set_mac(old.mac, network.mac)?;
                steps.readdress(self.index, old, &network);
            }
            old => {
                old.iter().for_each(|old| steps.take_down(self.index, old));
                steps.set_up(self.index, &network);
            }
        }
        steps.take(&self.routes)?;
        Ok(Current {
            identity: wanted.clone(),
            names: Rc::new(NetworkNames::of(&network)),
            network,
        })
    }

    fn take_down(&self, old: &Current) -> Result<()> {
        let mut steps = Steps::default();
        steps.take_down(self.index, &old.network);
        steps.take(&self.routes)
    }
}

impl Network {
    /// Finds the interface, and makes it ready to be set up.
    pub(crate) fn find() -> Self {
        let index = fs::read_to_string(format!("{INTERFACE}/ifindex"));
        let index = index.ok().and_then(|text| text.trim().parse().ok());
        let interface = index.and_then(|index| match Interface::open(index) {
            Ok(interface) => Some(interface),
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
                (current.identity.mac, current.network.mac) = (wanted.mac, wanted.mac);
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

    /// Changes the addresses alone, while processes use the interface. The connections of those
    /// that go are ended first, as long as their resets have a way out.
    ///
    /// # Errors
    /// [`FailureKind::OutOfOrder`] when there is no such network to change, and
    /// [`FailureKind::Network`] when the kernel refuses an address. The addresses are as before.
    pub(crate) fn readdress(&mut self, wanted: &NetworkIdentity) -> Result<()> {
        let (Some(interface), Some(current)) = (&self.interface, &mut self.current) else {
            return Err(failure(FailureKind::OutOfOrder, "There is no network"));
        };
        let network = wanted.decode().filter(|network| {
            let addresses = network.addresses.clone();
            let expected = GuestNetwork {
                addresses,
                ..current.network.clone()
            };
            *network == expected
        });
        let Some(network) = network else {
            let message = "More than the addresses of the network would change";
            return Err(failure(FailureKind::OutOfOrder, message));
        };
        let old = current.network.addresses.iter();
        let gone = old.filter(|address| !network.addresses.contains(address));
        let gone: Vec<IpAddr> = gone.map(|(address, _)| *address).collect();
        end(connections::end_of(&interface.diagnosis, &gone));
        let mut steps = Steps::default();
        steps.readdress(interface.index, &current.network, &network);
        if let Err(failure) = steps.take(&interface.routes) {
            let mut back = Steps::default();
            back.readdress(interface.index, &network, &current.network);
            // Some are refused: they have not changed.
            let _ = back.take(&interface.routes);
            return Err(failure);
        }
        (current.network, current.identity) = (network, wanted.clone());
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
        let Some(interface) = &self.interface else {
            return;
        };
        let own = self.current.iter();
        let own = own.flat_map(|current| &current.network.addresses);
        let own: Vec<IpAddr> = own.map(|(address, _)| *address).collect();
        end(connections::end_all(&interface.diagnosis, &own));
    }
}

/// Logs what kept connections from being ended. They end when they are used next: nobody answers.
fn end(ended: io::Result<()>) {
    if let Err(error) = ended {
        log::error(&format!("Could not end connections: {error}"));
    }
}

/// Whether one network takes another one's place with the interface up.
fn have_one_gateway(old: &GuestNetwork, new: &GuestNetwork) -> bool {
    old.mtu == new.mtu && old.gateways == new.gateways && old.gateway_mac == new.gateway_mac
}
