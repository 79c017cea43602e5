//! The network of a sandbox: from its spec to the stack that serves its guest.
//!
//! The stack runs on a thread of its own in the supervisor, so that packets delay no session.
//!
//! The link is private, so two sandboxes may have the same address. All of those that were made
//! from an image have: their templates bring the interface up with it, and a start sets the MAC
//! address alone. Under emulation a start takes 9 ms more than one without a network; setting up all
//! of the interface took 52 (2 cores, busybox, QEMU 7.2). Forks have addresses from their id.

mod change;
mod control;
mod live;
mod publish;
mod report;
mod rights;
mod secrets;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use cofferdam_net::{
    Addresses, Config, HOST_NAME, NamedNetwork, Policy, PolicyText, Profile, Rate, Rule,
};
use cofferdam_proto::GuestNetwork;
use cofferdam_types::{ByteSize, MacAddress, NetworkMode, NetworkSpec, SandboxId};

pub use self::secrets::read_secret;
pub(crate) use self::{
    change::{Planned, planned},
    control::Control,
    live::Network,
    publish::{Endpoints, expect_free, publish_exposed},
    report::Report,
    rights::Rights,
    secrets::{
        give_values as give_secret_values, take_values as take_secret_values,
        values as secret_values,
    },
};
use crate::base::error::{Error, ErrorKind, Result, lift};

/// Largest packet of the link, in bytes. QEMU's channel carries no offloads, so that large packets
/// do their work: one exit of the guest carries as much as 45 packets of 1500 bytes.
pub(crate) const MTU: u16 = 65_520;

/// The private link: 198.18.0.0/16 of RFC 2544, which no real network has, and a prefix of RFC
/// 4193.
const V4_PREFIX: u8 = 16;
const V6_PREFIX: u8 = 64;
const V6_NET: [u16; 4] = [0xfd63, 0x6f66, 0x6665, 0];

const GATEWAY_MAC: [u8; 6] = [0x02, 0x63, 0x66, 0, 0, 1];

/// Address of every interface until the agent sets the sandbox's own, which it does before any user
/// process runs. A template's guest has this one, so a booted sandbox's has it too.
pub(crate) const UNSET_MAC: MacAddress = MacAddress::from_random([0; 6]);

/// Most ports, rules, names and resolvers of one sandbox.
const MAX_ENTRIES: usize = 1024;

/// What a sandbox's network is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    config: Config,
    policy: Policy,
    network: NetworkSpec,
    /// What the guest's agent sets up.
    pub(crate) guest: GuestNetwork,
}

/// Largest packet of a sandbox's interface; `None` without one.
pub(crate) fn mtu(spec: &NetworkSpec) -> Option<u16> {
    (spec.mode != NetworkMode::None).then_some(MTU)
}

/// Refuses a network that cannot work.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`], with the part that is wrong.
pub(crate) fn check(spec: &NetworkSpec) -> Result<()> {
    policy(spec)?;
    secrets::check(spec)?;
    let counts = [
        spec.rules.len(),
        spec.publish.len(),
        spec.dns.len(),
        spec.hosts.len(),
    ];
    if counts.into_iter().any(|count| count > MAX_ENTRIES) {
        let what = format!("A network has at most {MAX_ENTRIES} rules, ports or names");
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    let is_word = |text: &&String| {
        let is_plain = |c: char| c.is_ascii_graphic();
        text.is_empty() || !text.chars().all(is_plain)
    };
    if let Some(bad) = spec
        .dns_search
        .iter()
        .chain(&spec.dns_options)
        .find(is_word)
    {
        let what = format!("`{}` cannot be in resolv.conf", bad.escape_debug());
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    if spec.mac.is_some_and(|mac| mac.bytes() == GATEWAY_MAC) {
        let what = "The gateway has this MAC address";
        return Err(Error::new(ErrorKind::InvalidSpec, what).hint("Choose another"));
    }
    if spec
        .capture
        .as_ref()
        .is_some_and(|file| !file.is_absolute())
    {
        let what = "The file of a capture is no absolute path";
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    if spec.mode == NetworkMode::None && !spec.networks.is_empty() {
        let what = "A sandbox without an interface cannot be in a named network";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("Use the default network beside the named ones"));
    }
    if spec.mode == NetworkMode::None && (!spec.publish.is_empty() || spec.publish_all) {
        let what = "A port cannot be published without a network";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("Use the default network, or publish no port"));
    }
    Ok(())
}

/// The network of the sandbox `id`; `None` if it has none. `is_fork`: it has connections of another
/// sandbox, and so gets addresses that the other cannot have. `networks` are its named networks. Its threads have `rights`.
///
/// # Errors
/// As for [`check`], and those of reading the host's addresses.
pub(crate) fn plan(
    id: SandboxId,
    spec: &NetworkSpec,
    is_fork: bool,
    networks: Vec<NamedNetwork>,
    rights: Rights,
) -> Result<Option<Plan>> {
    if spec.mode == NetworkMode::None {
        return Ok(None);
    }
    let mut policy = policy(spec)?;
    policy.host_addresses = lift(cofferdam_net::host_addresses())?;
    let config = Config {
        networks,
        confine: Some(Arc::new(rights)),
        ..config(id, spec, is_fork)
    };
    Ok(Some(Plan {
        guest: guest(&config, spec),
        config,
        policy,
        network: spec.clone(),
    }))
}

fn policy(spec: &NetworkSpec) -> Result<Policy> {
    let profile = spec.profile.as_deref().map(str::parse::<Profile>);
    let rules = spec.rules.iter().map(|rule| rule.parse::<Rule>());
    let rules = rules.collect::<cofferdam_net::Result<_>>();
    Ok(Policy::new(
        lift(profile.transpose())?.unwrap_or_default(),
        lift(rules)?,
    ))
}

/// Reads the text of a policy file: its profile, if it names one, and its rules.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] with the line and what is wrong there.
pub fn read_policy(text: &str) -> Result<(Option<String>, Vec<String>)> {
    let PolicyText { profile, rules } = lift(text.parse())?;
    let rules = rules.iter().map(ToString::to_string);
    Ok((profile.map(|profile| profile.to_string()), rules.collect()))
}

/// The network with which templates bring the interface up: that of a sandbox but for its MAC
/// address and the names.
pub(crate) fn of_template() -> GuestNetwork {
    let spec = NetworkSpec::default();
    let config = Config {
        guest_mac: UNSET_MAC.bytes(),
        ..config(SandboxId::from_random([0; 32]), &spec, false)
    };
    guest(&config, &spec)
}

/// What the agent of a sandbox on `networks` sets up.
pub(crate) fn of_guest(
    id: SandboxId,
    spec: &NetworkSpec,
    is_fork: bool,
    networks: &[NamedNetwork],
) -> GuestNetwork {
    let config = Config {
        networks: networks.to_vec(),
        ..config(id, spec, is_fork)
    };
    guest(&config, spec)
}

fn config(id: SandboxId, spec: &NetworkSpec, is_fork: bool) -> Config {
    let bytes = id.bytes();
    let own = [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]];
    let mac = spec.mac.unwrap_or_else(|| MacAddress::from_random(own));
    // From 1.1 to 254.254: neither the gateway, nor the host, nor a broadcast address.
    let part = |byte: u8| byte % 254 + 1;
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (v4, v6) = match is_fork {
        false => ([0, 3], [0, 0, 0, 3]),
        true => (
            [part(bytes[6]), part(bytes[7])],
            // Not one of the small numbers.
            [word(8) | 0x200, word(10), word(12), word(14)],
        ),
    };
    let v6_of = |last: [u16; 4]| {
        let [a, b, c, d] = V6_NET;
        Ipv6Addr::new(a, b, c, d, last[0], last[1], last[2], last[3])
    };
    Config {
        mtu: MTU.into(),
        gateway_mac: GATEWAY_MAC,
        v4: Some(Addresses {
            guest: Ipv4Addr::new(198, 18, v4[0], v4[1]),
            gateway: Ipv4Addr::new(198, 18, 0, 1),
            host: Ipv4Addr::new(198, 18, 0, 2),
        }),
        v6: Some(Addresses {
            guest: v6_of(v6),
            gateway: v6_of([0, 0, 0, 1]),
            host: v6_of([0, 0, 0, 2]),
        }),
        resolvers: match spec.dns.as_slice() {
            [] => cofferdam_net::host_resolvers(),
            own => own.iter().map(|ip| SocketAddr::new(*ip, 53)).collect(),
        },
        rate: rate(spec),
        ..Config::new(mac.bytes())
    }
}

/// The interface of a sandbox, as its guest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its address on the link.
    pub mac: MacAddress,
    /// Its IP addresses.
    pub addresses: Vec<IpAddr>,
    /// The gateway's, in the same order.
    pub gateways: Vec<IpAddr>,
}

/// The interface of a sandbox with a network; `is_fork` when it was forked from another.
#[must_use]
pub fn interface(id: SandboxId, spec: &NetworkSpec, is_fork: bool) -> Option<Interface> {
    if spec.mode == NetworkMode::None {
        return None;
    }
    let config = config(id, spec, is_fork);
    let guest = guest(&config, spec);
    Some(Interface {
        mac: MacAddress::new(guest.mac)?,
        addresses: guest
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .collect(),
        gateways: guest.gateways,
    })
}

/// The rate limits of `spec`.
fn rate(spec: &NetworkSpec) -> Rate {
    Rate {
        up: spec.rate_up.map(ByteSize::bytes),
        down: spec.rate_down.map(ByteSize::bytes),
    }
}

fn guest(config: &Config, spec: &NetworkSpec) -> GuestNetwork {
    let v4 = config.v4.iter();
    let v6 = config.v6.iter();
    let addresses = v4.clone().map(|v4| (IpAddr::V4(v4.guest), V4_PREFIX));
    let gateways = v4.clone().map(|v4| IpAddr::V4(v4.gateway));
    let host = v4.clone().map(|v4| IpAddr::V4(v4.host)).next();
    let names = spec.hosts.iter().filter_map(|entry| {
        let address = entry.address.or(host)?;
        Some((address, entry.name.clone()))
    });
    let own = host.map(|host| (host, HOST_NAME.to_owned()));
    GuestNetwork {
        mac: config.guest_mac,
        mtu: MTU,
        addresses: addresses
            .chain(v6.clone().map(|v6| (IpAddr::V6(v6.guest), V6_PREFIX)))
            .chain(config.networks.iter().flat_map(on_network))
            .collect(),
        gateways: gateways
            .chain(v6.map(|v6| IpAddr::V6(v6.gateway)))
            .collect(),
        gateway_mac: config.gateway_mac,
        dns_servers: v4.map(|v4| IpAddr::V4(v4.gateway)).collect(),
        dns_search: spec.dns_search.clone(),
        dns_options: spec.dns_options.clone(),
        hosts: own.into_iter().chain(names).collect(),
    }
}

/// The guest's addresses on a named network. Its members are on the link for the guest: the stack
/// answers for them.
fn on_network(network: &NamedNetwork) -> [(IpAddr, u8); 2] {
    let v4 = network.v4_of(network.number);
    let v6 = network.v6_of(network.number);
    [(v4.into(), network.v4.1), (v6.into(), V6_PREFIX)]
}

#[cfg(test)]
mod tests {
    use cofferdam_types::PortMapping;

    use super::*;

    fn spec() -> NetworkSpec {
        NetworkSpec {
            mode: NetworkMode::Default,
            ..NetworkSpec::default()
        }
    }

    fn id(byte: u8) -> SandboxId {
        SandboxId::from_random([byte; 32])
    }

    #[test]
    fn every_sandbox_has_valid_addresses_and_a_mac_address_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for byte in 0..=255 {
            for is_fork in [false, true] {
                let config = config(id(byte), &spec(), is_fork);
                config.validate().unwrap();
                seen.insert(config.guest_mac);
            }
        }
        assert_eq!(seen.len(), 256);
    }

    #[test]
    fn a_start_changes_the_mac_address_of_its_template_alone() {
        let of_template = of_template();
        let own = guest(&config(id(9), &spec(), false), &spec());
        assert_ne!(own.mac, of_template.mac);
        let mac = of_template.mac;
        assert_eq!(GuestNetwork { mac, ..own }, of_template);
    }

    #[test]
    fn a_fork_has_other_addresses_than_any_sandbox_of_an_image() {
        let parent = config(id(1), &spec(), false);
        for byte in 0..=255 {
            let fork = config(id(byte), &spec(), true);
            assert_ne!(fork.v4.unwrap().guest, parent.v4.unwrap().guest);
            assert_ne!(fork.v6.unwrap().guest, parent.v6.unwrap().guest);
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        check(&spec()).unwrap();
        let bad = |change: &dyn Fn(&mut NetworkSpec)| {
            let mut spec = spec();
            change(&mut spec);
            check(&spec).unwrap_err()
        };
        let errors = [
            bad(&|spec| spec.profile = Some("private".to_owned())),
            bad(&|spec| spec.rules = vec!["allow example.com:http".to_owned()]),
            bad(&|spec| spec.dns_search = vec!["a b".to_owned()]),
            bad(&|spec| spec.dns_options = vec!["ndots:1\nnameserver".to_owned()]),
            bad(&|spec| {
                spec.mode = NetworkMode::None;
                spec.publish = PortMapping::parse_all("80").unwrap();
            }),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        }
    }

    #[test]
    fn the_guest_knows_its_gateway_and_the_name_of_the_host() {
        let entry = "me:host-gateway".parse().unwrap();
        let spec = NetworkSpec {
            hosts: vec![entry],
            ..spec()
        };
        let guest = guest(&config(id(1), &spec, false), &spec);
        let host: IpAddr = "198.18.0.2".parse().unwrap();
        let expected = [(host, HOST_NAME.to_owned()), (host, "me".to_owned())];
        assert_eq!(guest.hosts, expected);
        assert_eq!(guest.gateways.len(), 2);
        assert_eq!(guest.dns_servers, [guest.gateways[0]]);
    }
}
