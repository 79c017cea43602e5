//! The way into a network that runs: it is seen and changed from blocking threads.

use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_net::{FlowInfo, Handle, NamedNetwork, Policy, PublishedPort};
use cofferdam_proto::{
    MAX_LISTED_DENIALS, MAX_LISTED_FLOWS, NetworkCounters, NetworkDenial, NetworkFlow,
    NetworkStatus,
};
use cofferdam_types::{PortMapping, PortProtocol};

use super::{change::Planned, publish::bind};
use crate::base::error::{Result, lift};

/// What the policy has refused lately, the newest last.
pub(super) type Denials = Arc<Mutex<Vec<NetworkDenial>>>;

/// Remembers a denial; the same one is there once.
pub(super) fn remember(denials: &Denials, denial: NetworkDenial) {
    let mut denials = denials.lock().unwrap_or_else(PoisonError::into_inner);
    denials.retain(|other| other.destination != denial.destination);
    if denials.len() >= MAX_LISTED_DENIALS {
        denials.remove(0);
    }
    denials.push(denial);
}

/// Sees and changes a network that runs. Clones are of the same network.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(super) handle: Handle,
    pub(super) denials: Denials,
}

impl Control {
    /// What it has carried so far.
    pub(crate) fn counters(&self) -> NetworkCounters {
        let stats = self.handle.stats();
        // The stack counts as a gateway does, and a sandbox as its interface does.
        NetworkCounters {
            received_bytes: stats.tx_bytes,
            received_packets: stats.tx_frames,
            sent_bytes: stats.rx_bytes,
            sent_packets: stats.rx_frames,
            flows: stats.tcp_flows + stats.udp_flows + stats.icmp_flows,
            denied: stats.denied,
        }
    }

    /// All that is to be seen; `ports` are those that are published.
    ///
    /// # Blocking
    /// For a turn of the stack's thread.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the stack has stopped.
    pub(crate) fn status(&self, ports: Vec<PortMapping>) -> Result<NetworkStatus> {
        let flows = lift(self.handle.flows())?;
        let left_out = flows.len().saturating_sub(MAX_LISTED_FLOWS);
        let denials = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(NetworkStatus {
            counters: self.counters(),
            ports,
            flows: flows.iter().take(MAX_LISTED_FLOWS).map(flow).collect(),
            flows_left_out: u64::try_from(left_out).unwrap_or(u64::MAX),
            denials: denials.clone(),
            ended_flows: 0,
        })
    }

    /// As [`Self::status`], without what only the stack knows when that has stopped.
    pub(crate) fn status_or_less(&self, ports: Vec<PortMapping>) -> NetworkStatus {
        self.status(ports.clone())
            .unwrap_or_else(|_| NetworkStatus {
                counters: self.counters(),
                ports,
                flows: Vec::new(),
                flows_left_out: 0,
                denials: Vec::new(),
                ended_flows: 0,
            })
    }

    /// Publishes the ports of `planned`; returns them with those that the kernel chose. If one
    /// cannot be published, none is.
    ///
    /// # Blocking
    /// For a turn of the stack's thread and each port.
    ///
    /// # Errors
    /// Those of the port.
    pub(crate) fn publish(&self, planned: &Planned) -> Result<Vec<PortMapping>> {
        let mut made = Vec::new();
        for port in &planned.publish {
            let published = bind(port).and_then(|bound| lift(self.handle.publish_bound(bound)));
            match published {
                Ok(published) => made.push(PortMapping {
                    host: published.host,
                    ..*port
                }),
                Err(error) => {
                    self.unpublish(&made);
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// Stops publishing `ports`, as they are published now. Their connections go on.
    pub(crate) fn unpublish(&self, ports: &[PortMapping]) {
        let published = self.handle.published().unwrap_or_default();
        for port in ports {
            // One that is gone already is what was asked for.
            if let Some(there) = published.iter().find(|there| is_same(there, port)) {
                let _ = self.handle.unpublish(there.id);
            }
        }
    }

    /// Does the rest of `planned`, with its `policy`. Returns how many flows the policy has ended.
    /// When it fails, the published ports are as before.
    ///
    /// # Blocking
    /// For a turn of the stack's thread and each port.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the stack has stopped.
    pub(crate) fn change(&self, planned: &Planned, policy: Policy) -> Result<u64> {
        let handle = &self.handle;
        lift(handle.set_policy(policy.profile, policy.rules, policy.host_addresses))?;
        lift(handle.set_rate(planned.rate()))?;
        let ended = match planned.resets_flows {
            true => lift(handle.reset_denied())?,
            false => 0,
        };
        self.unpublish(&planned.unpublish);
        Ok(u64::try_from(ended).unwrap_or(u64::MAX))
    }
}

/// Named networks.
impl Control {
    /// Makes the guest a member.
    ///
    /// # Blocking
    /// For a turn of the stack's thread.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the network's socket cannot be made or the stack has stopped.
    pub(crate) fn join(&self, network: NamedNetwork) -> Result<()> {
        lift(self.handle.join(network))
    }

    /// Ends a membership.
    ///
    /// # Blocking
    /// For a turn of the stack's thread.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the stack has stopped.
    pub(crate) fn leave(&self, network: &str) -> Result<()> {
        lift(self.handle.leave(network))
    }

    /// Ends the flows that are not allowed any more.
    ///
    /// # Blocking
    /// For a turn of the stack's thread.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the stack has stopped.
    pub(crate) fn reset_denied(&self) -> Result<()> {
        lift(self.handle.reset_denied()).map(drop)
    }
}

fn is_same(there: &PublishedPort, port: &PortMapping) -> bool {
    let protocol = match port.protocol {
        PortProtocol::Tcp => cofferdam_net::Protocol::Tcp,
        PortProtocol::Udp => cofferdam_net::Protocol::Udp,
    };
    (there.host, there.protocol) == (port.host, protocol)
}

fn flow(info: &FlowInfo) -> NetworkFlow {
    NetworkFlow {
        protocol: info.protocol.to_string(),
        local: info.guest,
        remote: info.remote,
        name: info.name.clone(),
        inbound: info.is_inbound,
        established: info.established,
        sent_bytes: info.up_bytes,
        received_bytes: info.down_bytes,
        age_ms: u64::try_from(info.age.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_bounded_and_the_same_one_is_there_once() {
        let denials = Denials::default();
        let denial = |number: u32, time_ns| NetworkDenial {
            time_ns,
            destination: format!("10.0.0.{number}:80/tcp"),
            reason: "it is private".to_owned(),
            allow: None,
        };
        for number in 0..1000 {
            remember(&denials, denial(number, 1));
        }
        remember(&denials, denial(990, 2));
        let all = denials.lock().unwrap();
        assert_eq!(all.len(), MAX_LISTED_DENIALS);
        assert_eq!(*all.last().unwrap(), denial(990, 2));
        let same = all
            .iter()
            .filter(|one| one.destination == denial(990, 2).destination);
        assert_eq!(same.count(), 1);
    }
}
