//! A network that runs.

use std::{net::SocketAddr, os::unix::net::UnixStream, thread};

use cofferdam_net::{Event, Events, FrameStream, Handle, Stack};
use cofferdam_proto::NetworkCounters;
use cofferdam_types::{PortMapping, PortProtocol};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Plan, asked};
use crate::base::error::{Error, ErrorKind, Result, io, lift};

/// The network of a live sandbox. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    handle: Handle,
    ports: Vec<PortMapping>,
}

/// Something that the user may want to see, as a sentence with what would change it.
#[derive(Debug)]
pub(crate) struct Denial {
    /// Where the guest wanted to, or the name that it asked for.
    pub(crate) destination: String,
    /// Why it was refused.
    pub(crate) reason: String,
    /// The rule that would allow it.
    pub(crate) allow: Option<String>,
}

impl Network {
    /// Starts the stack for the guest at the other end of `channel` and publishes the ports of
    /// `plan`. `denied` is called, on a thread of the network's, for what the policy refuses.
    ///
    /// # Errors
    /// Those of the ports; [`ErrorKind::Io`] when the host gives no thread or descriptor.
    pub(crate) fn start(
        channel: UnixStream,
        plan: &Plan,
        denied: impl Fn(Denial) + Send + 'static,
    ) -> Result<Self> {
        allow_all_descriptors();
        let frames = FrameStream::new(channel)
            .map_err(|error| io("Could not use the network channel", error))?;
        let (events, receiver) = Events::channel();
        let (config, policy) = (plan.config.clone(), plan.policy.clone());
        let stack = lift(Stack::new(config, Box::new(frames), policy, events))?;
        let handle = stack.handle();
        lift(stack.spawn())?;
        // From here on a failure stops the stack.
        let mut network = Self {
            handle,
            ports: Vec::new(),
        };
        thread::Builder::new()
            .name("net-events".to_owned())
            .spawn(move || receiver.iter().filter_map(sentence).for_each(denied))
            .map_err(|error| io("Could not start a thread of the network", error))?;
        for port in &plan.publish {
            let published = network.handle.publish(asked(port));
            let published = lift(published).map_err(|error| explain(port, error))?;
            let host: SocketAddr = published.host;
            network.ports.push(PortMapping { host, ..*port });
        }
        Ok(network)
    }

    /// The published ports, with those that the kernel chose.
    pub(crate) fn ports(&self) -> &[PortMapping] {
        &self.ports
    }

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
}

impl Drop for Network {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// Each flow has a descriptor. Where the limit cannot be raised, flows past it are refused.
fn allow_all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
}

fn explain(port: &PortMapping, error: Error) -> Error {
    let taken = error.kind() == ErrorKind::PortTaken;
    let what = format!("Could not publish `{}`", port.host);
    let explained = Error::new(error.kind(), what).because(error);
    match (taken, port.protocol) {
        (true, PortProtocol::Tcp | PortProtocol::Udp) => {
            explained.hint("Choose another port of the host, or let the system choose one")
        }
        (false, _) => explained,
    }
}

/// What is worth an event of the sandbox.
fn sentence(event: Event) -> Option<Denial> {
    match event {
        Event::Denied {
            protocol,
            destination,
            name,
            denial,
        } => {
            let name = name.map_or_else(String::new, |name| format!(" ({name})"));
            Some(Denial {
                destination: format!("{destination}/{protocol}{name}"),
                reason: denial.reason.to_string(),
                allow: Some(denial.allow),
            })
        }
        Event::NameDenied { name, denial } => Some(Denial {
            destination: name,
            reason: denial.reason.to_string(),
            allow: Some(denial.allow),
        }),
        Event::RebindingRefused { name, address } => Some(Denial {
            destination: name,
            reason: format!("its address {address} is private"),
            allow: None,
        }),
        _ => None,
    }
}
