//! What clients see and change of a sandbox's network while it runs.

use cofferdam_types::PortMapping;
use serde::{Deserialize, Serialize};

use crate::NetworkCounters;

/// Most flows of one list: with their names they fit into one message.
pub const MAX_LISTED_FLOWS: usize = 1024;

/// Most denials of one list.
pub const MAX_LISTED_DENIALS: usize = 64;

/// A change of a sandbox's network. What is absent or empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkChange {
    /// The profile: `public`, `none` or `all`.
    pub profile: Option<String>,
    /// Rules in place of all that there are.
    pub rules: Option<Vec<String>>,
    /// Rules that come before all others.
    pub rules_before: Vec<String>,
    /// Ports to publish.
    pub publish: Vec<PortMapping>,
    /// Ports that are not published any more: by their port in the guest and, unless that is 0,
    /// their place on the host.
    pub unpublish: Vec<PortMapping>,
    /// Most bytes per second from the guest; 0 for no limit.
    pub rate_up: Option<u64>,
    /// Most bytes per second to the guest; 0 for no limit.
    pub rate_down: Option<u64>,
    /// Leave flows alone that the changed policy does not allow.
    pub keep_flows: bool,
}

/// The network of a live sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// What it has carried.
    pub counters: NetworkCounters,
    /// The published ports, with those that the kernel chose.
    pub ports: Vec<PortMapping>,
    /// Flows that exist, [`MAX_LISTED_FLOWS`] at most.
    pub flows: Vec<NetworkFlow>,
    /// Flows that the list leaves out.
    pub flows_left_out: u64,
    /// What the policy has refused lately, the newest last; [`MAX_LISTED_DENIALS`] at most.
    pub denials: Vec<NetworkDenial>,
    /// Flows that the change ended because the policy does not allow them any more.
    pub ended_flows: u64,
}

/// One TCP or UDP flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFlow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The guest's end.
    pub local: std::net::SocketAddr,
    /// The other end.
    pub remote: std::net::SocketAddr,
    /// The name by which the guest came to the other end, if one is known.
    pub name: Option<String>,
    /// Whether it came to a published port.
    pub inbound: bool,
    /// Whether both ends are connected; of UDP, whether the other end has answered.
    pub established: bool,
    /// Bytes of data from the guest; of a UDP peer of a published port not counted.
    pub sent_bytes: u64,
    /// Bytes of data to the guest; of a UDP peer of a published port not counted.
    pub received_bytes: u64,
    /// Milliseconds since it began.
    pub age_ms: u64,
}

/// Something that the policy has refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDenial {
    /// When it was last refused, in nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Address, port and protocol, or the name that was asked for.
    pub destination: String,
    /// Why.
    pub reason: String,
    /// The rule that would allow it, as `--allow` takes it; none if no rule does.
    pub allow: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CONTROL_STREAM, MAX_PAYLOAD_BYTES, SupervisorMessage, encode_control};

    #[test]
    fn the_longest_lists_fit_into_one_message() {
        let name = || "n".repeat(253);
        let flow = NetworkFlow {
            protocol: "tcp".to_owned(),
            local: "[fd00::1]:65535".parse().unwrap(),
            remote: "[fd00::1]:65535".parse().unwrap(),
            name: Some(name()),
            inbound: true,
            established: true,
            sent_bytes: u64::MAX,
            received_bytes: u64::MAX,
            age_ms: u64::MAX,
        };
        let denial = NetworkDenial {
            time_ns: u64::MAX,
            destination: name() + &name(),
            reason: name() + &name(),
            allow: Some(name() + &name()),
        };
        let port = PortMapping {
            host: "[fd00::1]:65535".parse().unwrap(),
            guest: u16::MAX,
            protocol: cofferdam_types::PortProtocol::Tcp,
        };
        let status = NetworkStatus {
            flows: vec![flow; MAX_LISTED_FLOWS],
            denials: vec![denial; MAX_LISTED_DENIALS],
            ports: vec![port; 1024],
            ..NetworkStatus::default()
        };
        let mut bytes = Vec::new();
        let message = SupervisorMessage::Network(Box::new(status));
        encode_control(CONTROL_STREAM, &message, &mut bytes).unwrap();
        assert!(bytes.len() < MAX_PAYLOAD_BYTES / 2, "{}", bytes.len());
    }
}
