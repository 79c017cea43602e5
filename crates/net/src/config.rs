//! What a stack has to know of its guest, and the bounds that it keeps.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    confine::Confine,
    error::{Error, ErrorKind, Result},
    intercept::Secrets,
    named::NamedNetwork,
};

/// The smallest MTU: IPv6 asks for it (RFC 8200, section 5).
pub const MIN_MTU: usize = 1280;

/// The largest MTU that a virtio network device carries without offloads.
pub const MAX_MTU: usize = 65_520;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The name by which a guest reaches the host's loopback, where a rule allows it.
pub const HOST_NAME: &str = "host.coffer.internal";

/// The three addresses of one family on the private link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses<A> {
    /// The guest's address. Packets from others are dropped.
    pub guest: A,
    /// The gateway, which also answers DNS on port 53.
    pub gateway: A,
    /// Stands for the host's loopback; only rules with the target `host` open it.
    pub host: A,
}

/// All that a [`Stack`](crate::Stack) has to know at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest IP packet on the link in bytes, [`MIN_MTU`] to [`MAX_MTU`].
    pub mtu: usize,
    /// The guest's MAC address. Frames from others are dropped.
    pub guest_mac: Mac,
    /// The gateway's MAC address.
    pub gateway_mac: Mac,
    /// IPv4 on the link; absent: the guest has no IPv4.
    pub v4: Option<Addresses<Ipv4Addr>>,
    /// IPv6 on the link; absent: the guest has no IPv6.
    pub v6: Option<Addresses<Ipv6Addr>>,
    /// Where DNS queries go, in the order in which they are tried.
    pub resolvers: Vec<SocketAddr>,
    /// Names that the stack answers itself, besides [`HOST_NAME`]; without a final dot.
    pub names: Vec<(String, Vec<IpAddr>)>,
    /// The named networks of which the guest is a member.
    pub networks: Vec<NamedNetwork>,
    /// Bounds on what the guest can make this process keep.
    pub limits: Limits,
    /// How long things wait.
    pub timeouts: Timeouts,
    /// Bytes per second from and to the guest; absent: no limit.
    pub rate: Rate,
    /// Secrets of which the guest has placeholders; absent: none.
    pub secrets: Option<Secrets>,
    /// Takes rights from the stack's threads; absent: they have those of the process.
    pub confine: Option<Arc<dyn Confine>>,
}

/// Bounds on memory and descriptors. All of them hold for one sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// TCP flows at a time, in both directions.
    pub tcp_flows: usize,
    /// UDP flows at a time, in both directions.
    pub udp_flows: usize,
    /// ICMP echo flows at a time.
    pub icmp_flows: usize,
    /// DNS queries that wait for a resolver.
    pub dns_pending: usize,
    /// Connections from and to members of named networks at a time, together.
    pub peer_connections: usize,
    /// Bytes of all TCP buffers together. A flow gets an eighth of the free bytes, between 8 KiB
    /// and 1 MiB for each direction.
    pub tcp_buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_flows: 4096,
            udp_flows: 1024,
            icmp_flows: 64,
            dns_pending: 256,
            peer_connections: 1280,
            tcp_buffer_bytes: 64 << 20,
        }
    }
}

/// How long things wait.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A connect on the host or in the guest.
    pub connect: Duration,
    /// A UDP flow without an answer yet.
    pub udp_unanswered: Duration,
    /// A UDP flow that went both ways (RFC 4787, REQ-5: at least two minutes).
    pub udp_idle: Duration,
    /// An ICMP echo flow.
    pub icmp_idle: Duration,
    /// One try of one resolver.
    pub dns_try: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(60),
            udp_unanswered: Duration::from_secs(30),
            udp_idle: Duration::from_secs(180),
            icmp_idle: Duration::from_secs(30),
            dns_try: Duration::from_secs(2),
        }
    }
}

/// Rate limits in bytes per second of Ethernet frames; absent: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// From the guest.
    pub up: Option<u64>,
    /// To the guest.
    pub down: Option<u64>,
}

impl Config {
    /// The configuration of a private link with usual addresses: 10.0.2.0/24 and fd00:c0ff::/64.
    #[must_use]
    pub fn new(guest_mac: Mac) -> Self {
        Self {
            mtu: 1500,
            guest_mac,
            gateway_mac: [0x02, 0x63, 0x66, 0x00, 0x00, 0x01],
            v4: Some(Addresses {
                guest: Ipv4Addr::new(10, 0, 2, 15),
                gateway: Ipv4Addr::new(10, 0, 2, 1),
                host: Ipv4Addr::new(10, 0, 2, 2),
            }),
            v6: Some(Addresses {
                guest: Ipv6Addr::new(0xfd00, 0xc0ff, 0, 0, 0, 0, 0, 15),
                gateway: Ipv6Addr::new(0xfd00, 0xc0ff, 0, 0, 0, 0, 0, 1),
                host: Ipv6Addr::new(0xfd00, 0xc0ff, 0, 0, 0, 0, 0, 2),
            }),
            resolvers: Vec::new(),
            names: Vec::new(),
            networks: Vec::new(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            rate: Rate::default(),
            secrets: None,
            confine: None,
        }
    }

    /// Checks every field that a mistake could make useless or unsafe.
    ///
    /// # Errors
    /// `InvalidConfig` with the field and its value.
    pub fn validate(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::InvalidConfig, what));
        if !(MIN_MTU..=MAX_MTU).contains(&self.mtu) {
            return invalid(format!(
                "The MTU `{}` is not between {MIN_MTU} and {MAX_MTU}",
                self.mtu
            ));
        }
        if [self.guest_mac, self.gateway_mac]
            .iter()
            .any(|mac| mac[0] & 1 == 1 || *mac == [0; 6])
            || self.guest_mac == self.gateway_mac
        {
            return invalid("The MAC addresses are not two different unicast addresses".to_owned());
        }
        if let Some(v4) = &self.v4
            && !distinct([v4.guest.into(), v4.gateway.into(), v4.host.into()])
        {
            return invalid("The IPv4 addresses are not three unicast addresses".to_owned());
        }
        if let Some(v6) = &self.v6
            && !distinct([v6.guest.into(), v6.gateway.into(), v6.host.into()])
        {
            return invalid("The IPv6 addresses are not three unicast addresses".to_owned());
        }
        Ok(())
    }

    /// The guest's address of the family of `other`.
    #[must_use]
    pub fn guest_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(|v4| v4.guest.into()),
            IpAddr::V6(_) => self.v6.map(|v6| v6.guest.into()),
        }
    }

    /// The gateway's address of the family of `other`.
    #[must_use]
    pub fn gateway_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(|v4| v4.gateway.into()),
            IpAddr::V6(_) => self.v6.map(|v6| v6.gateway.into()),
        }
    }

    /// Whether `address` is the guest's own, on the link or on a named network.
    #[must_use]
    pub fn is_guest(&self, address: IpAddr) -> bool {
        self.guest_like(address) == Some(address)
            || self.networks.iter().any(|network| network.is_own(address))
    }

    /// Whether the guest reaches the members of its networks alone.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        !self.networks.is_empty() && self.networks.iter().all(|network| network.internal)
    }

    /// Whether the gateway answers for `address` on the link: its own, the host's, and those of
    /// other members of the guest's networks.
    #[must_use]
    pub fn answers_for(&self, address: IpAddr) -> bool {
        let member = |network: &NamedNetwork| {
            network.number_of(address).is_some() && !network.is_own(address)
        };
        self.is_gateway(address) || self.is_host(address) || self.networks.iter().any(member)
    }

    /// Whether `address` is the gateway's.
    #[must_use]
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateway_like(address) == Some(address)
    }

    /// Whether `address` stands for the host's loopback.
    #[must_use]
    pub fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.is_some_and(|v4| v4.host == address),
            IpAddr::V6(address) => self.v6.is_some_and(|v6| v6.host == address),
        }
    }
}

fn distinct(all: [IpAddr; 3]) -> bool {
    let unicast = |address: &IpAddr| {
        !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
    };
    all.iter().all(unicast) && all[0] != all[1] && all[1] != all[2] && all[0] != all[2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_configuration_is_valid() {
        Config::new([2, 0, 0, 0, 0, 1]).validate().unwrap();
    }

    #[test]
    fn each_field_that_cannot_work_is_named() {
        let valid = Config::new([2, 0, 0, 0, 0, 1]);
        let check = |change: &dyn Fn(&mut Config), word: &str| {
            let mut config = valid.clone();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(word), "{error}");
        };
        check(&|config| config.mtu = 1279, "`1279`");
        check(&|config| config.mtu = 65_521, "`65521`");
        check(&|config| config.guest_mac = [1; 6], "MAC");
        check(&|config| config.guest_mac = config.gateway_mac, "MAC");
        check(
            &|config| config.v4.as_mut().unwrap().host = Ipv4Addr::new(10, 0, 2, 1),
            "IPv4",
        );
        check(
            &|config| config.v6.as_mut().unwrap().guest = Ipv6Addr::LOCALHOST,
            "IPv6",
        );
    }
}
