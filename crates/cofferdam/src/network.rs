//! The network of a sandbox: what is to be seen of it, and what changes while it runs.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use cofferdam_runtime::{
    Entry, NetworkChange, NetworkCounters, NetworkDenial, NetworkFlow, NetworkStatus, Result,
    interface, system_time,
};
use cofferdam_types::{ByteSize, MacAddress, NetworkMode, PortMapping};
use serde::Serialize;

use crate::{PolicyText, Sandbox, SandboxNetwork};

/// The network of a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NetworkDetails {
    /// Whether there is one.
    pub mode: NetworkMode,
    /// Address of the interface on its link; none without a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Addresses of the interface.
    pub addresses: Vec<IpAddr>,
    /// The gateway's addresses.
    pub gateways: Vec<IpAddr>,
    /// Its places on named networks, by their names.
    pub networks: Vec<SandboxNetwork>,
    /// What holds where no rule matches: `public`, `none` or `all`.
    pub profile: String,
    /// The rules in the order in which they are tried.
    pub rules: Vec<String>,
    /// The published ports: of a live sandbox with those that the kernel chose, of another those
    /// that its next start publishes.
    pub ports: Vec<PortMapping>,
    /// Most bytes per second from the guest; no limit when absent.
    pub rate_up: Option<ByteSize>,
    /// Most bytes per second to the guest; no limit when absent.
    pub rate_down: Option<ByteSize>,
    /// What it has carried since the start; none of a sandbox that is not live.
    pub counters: Option<NetworkCounters>,
    /// The TCP and UDP flows of a live sandbox, 1024 at most.
    pub flows: Vec<Flow>,
    /// Flows that the list leaves out.
    pub flows_left_out: u64,
    /// What the policy has refused lately, the newest last; 64 at most.
    pub denials: Vec<NetworkDenied>,
    /// Flows that the change, if this is the result of one, has ended because the policy does not
    /// allow them any more.
    pub ended_flows: u64,
}

/// One TCP or UDP flow of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Flow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end; of a connection to a published port its peer.
    pub remote: SocketAddr,
    /// The name by which the guest came to the other end: the one that it said in TLS or HTTP, or
    /// one that it looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it came to a published port.
    pub inbound: bool,
    /// Whether both ends are connected; of UDP, whether the other end has answered.
    pub established: bool,
    /// Bytes of data from the guest; not counted for UDP peers of published ports.
    pub sent_bytes: u64,
    /// Bytes of data to the guest; not counted for UDP peers of published ports.
    pub received_bytes: u64,
    /// How long it has existed.
    #[serde(serialize_with = "millis", rename = "age_ms")]
    pub age: Duration,
}

/// Something that a policy has refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetworkDenied {
    /// When it was last refused, in nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Address, port and protocol, or the name that was asked for.
    pub destination: String,
    /// Why.
    pub reason: String,
    /// The rule that would allow it, without the word `allow`; none if no rule does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<String>,
}

impl NetworkDenied {
    /// When it was last refused.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        system_time(self.time_ns)
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn millis<S: serde::Serializer>(
    time: &Duration,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl Sandbox {
    /// Its network as it is now.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when it was removed; [`crate::ErrorKind::SupervisorLost`].
    pub async fn network(&self) -> Result<NetworkDetails> {
        let now = self.now()?;
        let has_network = now.record.spec.network.mode != NetworkMode::None;
        let status = match has_network && now.state.status.is_live() {
            true => Some(self.coffer().runtime.network(&now).await?),
            false => None,
        };
        let networks = self.coffer().networks().of_sandbox(now.record.id)?;
        Ok(NetworkDetails::new(&now, networks, status))
    }

    /// Changes its network; returns it as it is then. A live sandbox has the change at once, and
    /// each sandbox has it at its later starts. If a part of it cannot be done, nothing is.
    ///
    /// Flows that the changed policy does not allow are reset on both sides, unless
    /// [`NetworkChange::keep_flows`] is set.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidSpec`] for a rule, a profile, or a sandbox without a network;
    /// [`crate::ErrorKind::PortTaken`] and others of a port; [`crate::ErrorKind::NotFound`] for a
    /// port that is not published.
    pub async fn change_network(&self, change: NetworkChange) -> Result<NetworkDetails> {
        let now = self.now()?;
        let status = self.coffer().runtime.change_network(&now, change).await?;
        let networks = self.coffer().networks().of_sandbox(now.record.id)?;
        Ok(NetworkDetails::new(&self.now()?, networks, status))
    }

    /// Replaces its rules, and its profile if `policy` names one, as [`Self::change_network`] does.
    ///
    /// # Errors
    /// As [`Self::change_network`].
    pub async fn set_policy(&self, policy: PolicyText) -> Result<NetworkDetails> {
        self.change_network(NetworkChange {
            profile: policy.profile,
            rules: Some(policy.rules),
            ..NetworkChange::default()
        })
        .await
    }

    /// Publishes ports; returns all of its published ports, with those that the kernel chose.
    ///
    /// # Errors
    /// As [`Self::change_network`].
    pub async fn publish(&self, ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
        let change = NetworkChange {
            publish: ports.to_vec(),
            ..NetworkChange::default()
        };
        Ok(self.change_network(change).await?.ports)
    }

    /// Stops publishing ports: each by its port in the guest and, unless that is 0, its place on
    /// the host. Connections go on. Returns those that are still published.
    ///
    /// # Errors
    /// As [`Self::change_network`].
    pub async fn unpublish(&self, ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
        let change = NetworkChange {
            unpublish: ports.to_vec(),
            ..NetworkChange::default()
        };
        Ok(self.change_network(change).await?.ports)
    }
}

impl NetworkDetails {
    fn new(
        Entry { record, state }: &Entry,
        networks: Vec<SandboxNetwork>,
        status: Option<NetworkStatus>,
    ) -> Self {
        let spec = &record.spec.network;
        let interface = interface(record.id, spec, record.forked_from.is_some());
        let (mac, addresses, gateways) = match interface {
            Some(interface) => (Some(interface.mac), interface.addresses, interface.gateways),
            None => (None, Vec::new(), Vec::new()),
        };
        let is_live = state.status.is_live();
        let counters = status.as_ref().map(|status| status.counters);
        let status = status.unwrap_or_else(|| NetworkStatus {
            ports: match is_live {
                true => state.ports.clone(),
                false => spec.publish.clone(),
            },
            ..NetworkStatus::default()
        });
        Self {
            mode: spec.mode,
            mac,
            addresses,
            gateways,
            networks,
            profile: spec.profile.clone().unwrap_or_else(|| "public".to_owned()),
            rules: spec.rules.clone(),
            ports: status.ports,
            rate_up: spec.rate_up,
            rate_down: spec.rate_down,
            counters,
            flows: status.flows.into_iter().map(Flow::new).collect(),
            flows_left_out: status.flows_left_out,
            denials: status.denials.into_iter().map(NetworkDenied::new).collect(),
            ended_flows: status.ended_flows,
        }
    }
}

impl Flow {
    fn new(flow: NetworkFlow) -> Self {
        Self {
            protocol: flow.protocol,
            local: flow.local,
            remote: flow.remote,
            name: flow.name,
            inbound: flow.inbound,
            established: flow.established,
            sent_bytes: flow.sent_bytes,
            received_bytes: flow.received_bytes,
            age: Duration::from_millis(flow.age_ms),
        }
    }
}

impl NetworkDenied {
    fn new(denial: NetworkDenial) -> Self {
        Self {
            time_ns: denial.time_ns,
            destination: denial.destination,
            reason: denial.reason,
            allow: denial.allow,
        }
    }
}
