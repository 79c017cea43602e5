//! What a user asks of a sandbox's network.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, MacAddress, SecretSpec};

/// The network of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// Whether there is one. What was written down without it has none.
    #[serde(default = "NetworkMode::none")]
    pub mode: NetworkMode,
    /// The named networks of which it is a member, besides its own link.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachment>,
    /// What may be reached when no rule matches: `public`, `none` or `all`; `public` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Rules such as `allow example.com:443` and `deny 203.0.113.0/24`. The first that matches
    /// decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Ports of the host that lead to ports of the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PortMapping>,
    /// Publish each port that the image exposes and `publish` leaves out, on a port of 127.0.0.1
    /// that the kernel chooses.
    #[serde(skip_serializing_if = "is_false")]
    pub publish_all: bool,
    /// Address of the interface; one from the sandbox's id when absent. A fork has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Most bytes per second of frames from the guest; no limit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_up: Option<ByteSize>,
    /// Most bytes per second of frames to the guest; no limit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_down: Option<ByteSize>,
    /// File of the host into which each start writes all frames, in pcap format; an absolute path.
    /// A fork writes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<PathBuf>,
    /// Resolvers that the gateway asks; the host's when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Domains that the guest searches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Options of the guest's resolver; resolv.conf(5).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_options: Vec<String>,
    /// Names that the guest knows beside those of DNS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostEntry>,
    /// Secrets that are put into requests at the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretSpec>,
    /// Hosts whose TLS is never ended by the proxy of the secrets: names, or `*.` and a suffix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_bypass: Vec<String>,
}

impl NetworkSpec {
    /// No network at all.
    #[must_use]
    pub fn none() -> Self {
        Self {
            mode: NetworkMode::None,
            ..Self::default()
        }
    }

    /// Whether it is [`NetworkSpec::none`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::none()
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// A sandbox's place on a named network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkAttachment {
    /// The network.
    pub network: String,
    /// Names by which its members find the sandbox, besides the sandbox's own name and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The IPv4 address on the network; the lowest that is free when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

impl NetworkAttachment {
    /// A place on `network` without an alias, at any address.
    #[must_use]
    pub fn new(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            aliases: Vec::new(),
            address: None,
        }
    }
}

/// Whether a sandbox has a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkMode {
    /// The machine has no network interface.
    None,
    /// One interface, on a private link to a gateway that keeps the policy.
    #[default]
    Default,
}

impl NetworkMode {
    /// For serde.
    const fn none() -> Self {
        Self::None
    }
}

/// Text that names no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseNetworkError(String);

impl fmt::Display for ParseNetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseNetworkError {}

impl FromStr for NetworkMode {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            // The names that Docker's users know for it.
            "default" | "bridge" => Ok(Self::Default),
            _ => Err(ParseNetworkError(format!(
                "`{text}` is no network: use `default` or `none`"
            ))),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Default => "default",
        })
    }
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// Where the host listens; port 0 lets the kernel choose.
    pub host: SocketAddr,
    /// Port in the guest.
    pub guest: u16,
    /// Protocol.
    pub protocol: PortProtocol,
}

impl PortMapping {
    /// Reads `[[IP:]HOST:]GUEST[/tcp|udp]` as Docker does, where HOST and GUEST may be ranges of the
    /// same length. Without HOST the kernel chooses. Without IP the host listens on 127.0.0.1.
    ///
    /// # Errors
    /// With the part that cannot be read.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ParseNetworkError> {
        let error = |why: &str| ParseNetworkError(format!("`{text}` is no published port: {why}"));
        let (rest, protocol) = match text.rsplit_once('/') {
            None => (text, PortProtocol::Tcp),
            Some((rest, "tcp")) => (rest, PortProtocol::Tcp),
            Some((rest, "udp")) => (rest, PortProtocol::Udp),
            Some((_, other)) => return Err(error(&format!("`{other}` is neither tcp nor udp"))),
        };
        let (rest, guest) = rest.rsplit_once(':').unwrap_or(("", rest));
        let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
        // Docker's way to say "some port of this address": `127.0.0.1::80`.
        let address = match address.trim_start_matches('[').trim_end_matches(']') {
            "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            text => text
                .parse()
                .map_err(|_| error(&format!("`{text}` is no IP address")))?,
        };
        let guests = ports(guest).ok_or_else(|| error(&format!("`{guest}` is no port")))?;
        let hosts = match host {
            "" | "0" => vec![0; guests.len()],
            host => ports(host).ok_or_else(|| error(&format!("`{host}` is no port")))?,
        };
        if hosts.len() != guests.len() {
            return Err(error("the ranges have different lengths"));
        }
        let mapping = |(host, guest)| Self {
            host: SocketAddr::new(address, host),
            guest,
            protocol,
        };
        Ok(hosts.into_iter().zip(guests).map(mapping).collect())
    }
}

/// `HOST:PORT->GUEST/PROTOCOL`, as `docker ps` shows it.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}/{}", self.host, self.guest, self.protocol)
    }
}

/// A port from 1 on, or a range of them.
fn ports(text: &str) -> Option<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then(|| (first..=last).collect())
}

/// A name and its address, for `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address; the host's loopback, as the guest reaches it, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// Reads `NAME:ADDRESS`; the address `host-gateway` is the host.
impl FromStr for HostEntry {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseNetworkError(format!("`{text}` is not NAME:ADDRESS"));
        let (name, address) = text.split_once([':', '=']).ok_or_else(error)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(error());
        }
        let address = match address.trim_start_matches('[').trim_end_matches(']') {
            "host-gateway" => None,
            address => Some(address.parse().map_err(|_| error())?),
        };
        Ok(Self {
            name: name.to_owned(),
            address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let all = PortMapping::parse_all(text).unwrap();
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_are_read_as_by_docker_and_listen_on_the_loopback() {
        assert_eq!(read("8080:80"), ["127.0.0.1:8080->80/tcp"]);
        assert_eq!(read("80"), ["127.0.0.1:0->80/tcp"]);
        assert_eq!(read("0.0.0.0:53:53/udp"), ["0.0.0.0:53->53/udp"]);
        assert_eq!(read("127.0.0.1::80"), ["127.0.0.1:0->80/tcp"]);
        assert_eq!(read("[::1]:8080:80/tcp"), ["[::1]:8080->80/tcp"]);
        assert_eq!(
            read("8000-8001:90-91"),
            ["127.0.0.1:8000->90/tcp", "127.0.0.1:8001->91/tcp"]
        );
        for bad in [
            "", "x", "0:0", "1:2:3:4", "80/sctp", "1-2:3", "70000:1", "2-1:2-1", "a:1:1",
        ] {
            assert!(PortMapping::parse_all(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_is_a_network_by_default_and_none_in_what_says_nothing_about_it() {
        assert_eq!(NetworkSpec::default().mode, NetworkMode::Default);
        let old: crate::SandboxSpec = serde_json::from_str("{}").unwrap();
        assert!(old.network.is_none());
        let old: NetworkSpec = serde_json::from_str(r#"{"rules":["deny *"]}"#).unwrap();
        assert_eq!(old.mode, NetworkMode::None);
        for spec in [NetworkSpec::default(), NetworkSpec::none()] {
            let spec = crate::SandboxSpec {
                network: spec,
                ..crate::SandboxSpec::default()
            };
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(
                serde_json::from_str::<crate::SandboxSpec>(&text).unwrap(),
                spec
            );
        }
    }

    #[test]
    fn a_host_entry_has_a_name_and_an_address() {
        let entry: HostEntry = "db:192.0.2.1".parse().unwrap();
        assert_eq!(entry.address, Some("192.0.2.1".parse().unwrap()));
        let entry: HostEntry = "db:2001:db8::1".parse().unwrap();
        assert_eq!(entry.address, Some("2001:db8::1".parse().unwrap()));
        let entry: HostEntry = "me:host-gateway".parse().unwrap();
        assert_eq!(entry.address, None);
        for bad in ["db", ":1.2.3.4", "d b:1.2.3.4", "d\nb:1.2.3.4", "db:x"] {
            assert!(bad.parse::<HostEntry>().is_err(), "{bad:?}");
        }
    }
}
