//! A network that runs.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use cofferdam_net::{Events, FrameStream, Stack};
use cofferdam_proto::NetworkCounters;
use cofferdam_types::{NamedSecret, PortMapping};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    Plan,
    control::{Control, Denials, remember},
    publish::Endpoints,
    report::{Budget, Report, denial},
    secrets,
};
use crate::base::error::{Result, io, lift};

/// How long the end of a stack is waited for, so that its ports are free. It takes one turn of its
/// loop.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The network of a live sandbox. It ends when this is dropped.
///
/// # Blocking
/// The drop waits for the stack's end, a second at most.
#[derive(Debug)]
pub(crate) struct Network {
    control: Control,
    ports: Vec<PortMapping>,
    /// The certificate that the guest has to trust, in PEM; absent without secrets.
    certificate: Option<String>,
    /// Closed when the stack has ended.
    ended: Receiver<()>,
}

impl Network {
    /// Starts the stack for the guest at the other end of `channel` and serves its ports. `report` is called, on a thread of the network's, for what the user may want to see.
    ///
    /// # Blocking
    /// For each port until the stack has taken it over.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the host gives no thread or descriptor.
    pub(crate) fn start(
        channel_to_guest: UnixStream,
        plan: &Plan,
        endpoints: &Endpoints,
        values: &[NamedSecret],
        report: impl Fn(Report) + Send + 'static,
    ) -> Result<Self> {
        let frames = FrameStream::new(channel_to_guest)
            .map_err(|error| io("Could not use the network channel", error))?;
        let (events, receiver) = Events::channel();
        let (mut config, policy) = (plan.config.clone(), plan.policy.clone());
        // Also for a sandbox on no network: it may join one.
        let peers = config.limits.peer_connections;
        let (flows, peers) = flows_within(raise_descriptor_limit(), peers);
        config.limits.tcp_flows = config.limits.tcp_flows.min(flows);
        config.limits.udp_flows = config.limits.udp_flows.min(flows / 4);
        config.limits.peer_connections = peers;
        let reporter = events.reporter();
        let (secrets, certificate) = secrets::start(&plan.network, values, reporter)?.unzip();
        config.secrets = secrets;
        let stack = lift(Stack::new(config, Box::new(frames), policy, events))?;
        let handle = stack.handle();
        let running = lift(stack.spawn())?;
        let (sender, ended) = channel();
        // From here on a failure stops the stack.
        let denials = Denials::default();
        let mut network = Self {
            control: Control {
                handle: handle.clone(),
                denials: Arc::clone(&denials),
            },
            ports: Vec::new(),
            certificate,
            ended,
        };
        let follow = move || {
            let mut budget = Budget::default();
            for event in receiver {
                if let Some(denial) = denial(&event) {
                    remember(&denials, denial);
                }
                budget.take(&event).into_iter().for_each(&report);
            }
            // The stack has dropped its end of the queue.
            match running.join() {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => report(Report::stopped(&error.chain())),
                Err(_) => report(Report::stopped("its thread has panicked")),
            }
            drop(sender);
        };
        thread::Builder::new()
            .name("net-events".to_owned())
            .spawn(follow)
            .map_err(|error| io("Could not start a thread of the network", error))?;
        let taken = endpoints.hand_over();
        if taken.capture.is_some() {
            lift(handle.capture(taken.capture))?;
        }
        for (asked, bound) in taken.ports {
            let host = lift(handle.publish_bound(bound))?.host;
            network.ports.push(PortMapping { host, ..asked });
        }
        Ok(network)
    }

    /// The published ports, with those that the kernel chose.
    pub(crate) fn ports(&self) -> &[PortMapping] {
        &self.ports
    }

    /// The way in for other threads.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// The certificate that the guest has to trust, in PEM; absent without secrets.
    pub(crate) fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// What it has carried so far.
    pub(crate) fn counters(&self) -> NetworkCounters {
        self.control.counters()
    }

    /// When a published port was last used: now while it has a connection; `None` before the first.
    pub(crate) fn last_published_use(&self) -> Option<Instant> {
        self.control.handle.last_published_use()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.control.handle.stop();
        // Nothing is ever sent: the sender goes with the stack.
        let _ = self.ended.recv_timeout(END_TIMEOUT);
    }
}

/// Descriptors that clients, logs and the machine have for themselves: a guest that opens all the
/// flows that it may must not lock its owner out.
const RESERVED_DESCRIPTORS: u64 = 384;

/// Most TCP flows in a process that may have this many descriptors, and most connections with
/// members of named networks, where `peers` are wanted and a quarter at most is for them. A flow has
/// one, a quarter as many are for UDP, and some for ICMP and DNS.
fn flows_within(descriptors: u64, peers: usize) -> (usize, usize) {
    let free = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    let free = usize::try_from(free).unwrap_or(usize::MAX);
    let peers = peers.min(free / 4);
    ((free - peers) / 3 * 2, peers)
}

/// Raises this process's limit as far as the host allows; returns it.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_opens_all_its_flows_leaves_descriptors_for_its_owner() {
        for descriptors in [0, 256, 1024, 4096, 1 << 20] {
            for peers in [0, 1280] {
                let (flows, peers) = flows_within(descriptors, peers);
                // With a quarter for UDP, and 64 ICMP flows and 256 queries where there is room.
                let all = (flows + flows / 4 + peers) as u64;
                assert!(all + RESERVED_DESCRIPTORS <= descriptors.max(RESERVED_DESCRIPTORS));
            }
        }
        assert!(flows_within(1024, 0).0 > 400);
        assert_eq!(flows_within(1024, 1280), (320, 160));
        assert_eq!(flows_within(1 << 20, 1280).1, 1280);
    }
}
