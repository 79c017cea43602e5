//! A stack: all parts together, on one thread with one place to wait.
//!
//! [`Stack::new`] makes it, [`Stack::spawn`] runs it on a thread of its own, and a [`Handle`]
//! changes, reads and stops it from other threads.

mod dispatch;
mod handle;
mod turn;

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Instant,
};

pub use handle::Handle;
pub use turn::End;

use self::handle::Command;
use crate::{
    config::Config,
    context::{Context, Egress, Names, Own},
    dns::Dns,
    error::{Error, ErrorKind, Result, io},
    event::Events,
    frame::{FrameIo, Input},
    icmp::Icmp,
    limit::Bucket,
    named::NamedNetwork,
    peers::Peers,
    policy::Policy,
    poller::Poller,
    publish::Published,
    stats::Counters,
    switch::{MAX_NETWORKS, Switch},
    tcp::Tcp,
    udp::Udp,
    wire::Reassembly,
};

/// The network of one sandbox.
#[derive(Debug)]
pub struct Stack {
    cx: Context,
    tcp: Tcp,
    udp: Udp,
    icmp: Icmp,
    dns: Dns,
    publish: Published,
    peers: Peers,
    reassembly: Reassembly,
    /// The rate limit of frames from the guest.
    up: Bucket,
    /// Frames that are too long, as far as they are counted.
    skipped: u64,
    /// Frames that were read; absent while they are handled.
    input: Option<Box<Input>>,
    /// Whether the other side of the channel is gone.
    closed: bool,
    commands: Receiver<Command>,
    handle: Handle,
}

impl Stack {
    /// A stack for the guest at the other end of `frame_io`. It does nothing until it runs.
    ///
    /// # Errors
    /// `InvalidConfig`, or `Io` when the kernel gives no descriptors or random numbers.
    pub fn new(
        config: Config,
        frame_io: Box<dyn FrameIo>,
        policy: Policy,
        events: Events,
    ) -> Result<Self> {
        config.validate()?;
        let now = Instant::now();
        let poller = Poller::new().map_err(|error| io("Could not make a poller", error))?;
        let counters = Arc::new(Counters::default());
        let mut egress = Egress::new(frame_io, &config, Arc::clone(&counters), now);
        let seed = random()?;
        let tcp = Tcp::new(&mut egress, config.mtu, now, seed);
        let switch = joined(&poller, &config)?;
        let (sender, commands) = channel();
        let handle = Handle {
            sender,
            waker: poller.waker(),
            counters: Arc::clone(&counters),
            start: now,
            confine: config.confine.clone(),
        };
        Ok(Self {
            up: Bucket::new(config.rate.up, now),
            cx: Context {
                config,
                now,
                start: now,
                poller,
                egress,
                policy,
                names: Names::default(),
                own: Own::new()?,
                switch,
                counters,
                events,
            },
            tcp,
            udp: Udp::new(),
            icmp: Icmp::new(),
            dns: Dns::new(),
            publish: Published::new(),
            peers: Peers::default(),
            reassembly: Reassembly::default(),
            skipped: 0,
            input: Some(Box::default()),
            closed: false,
            commands,
            handle,
        })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the stack on a thread of its own, with the rights that its configuration leaves. The
    /// thread ends with `Io` if they cannot be taken.
    ///
    /// # Errors
    /// `Io` when the kernel gives no thread.
    pub fn spawn(self) -> Result<thread::JoinHandle<Result<End>>> {
        thread::Builder::new()
            .name("net".to_owned())
            .spawn(|| {
                if let Some(confine) = &self.cx.config.confine {
                    let failed = |error| io("Could not confine the thread of the network", error);
                    confine.stack().map_err(failed)?;
                }
                self.run()
            })
            .map_err(|error| io("Could not start the thread of the network", error))
    }

    /// Resets every flow on both sides.
    fn reset_flows(&mut self) {
        self.tcp.reset_all(&mut self.cx);
        self.udp.reset_all(&mut self.cx);
        self.icmp = Icmp::new();
        self.dns.reset_all();
        self.publish.reset_flows(&self.cx);
        self.peers.reset();
    }

    /// Ends the guest's flows that the policy does not allow any more.
    fn reset_denied(&mut self) -> usize {
        let tcp = self.tcp.reset_denied(&mut self.cx);
        // An echo flow begins anew with the next request, which the policy decides about.
        self.icmp = Icmp::new();
        tcp + self.udp.reset_denied(&mut self.cx)
    }

    /// Replaces the configuration.
    fn configure(&mut self, config: Config) -> Result<()> {
        config.validate()?;
        let seed = random()?;
        // The resets still go to the addresses that the guest has had.
        self.reset_flows();
        self.reassembly = Reassembly::default();
        let now = self.cx.now;
        let cx = &mut self.cx;
        // The old sockets' names go before others may take them.
        cx.switch = Switch::new(0);
        cx.switch = joined(&cx.poller, &config)?;
        cx.egress.configure(&config, now);
        cx.names = Names::default();
        self.up = Bucket::new(config.rate.up, now);
        self.tcp = Tcp::new(&mut cx.egress, config.mtu, now, seed);
        cx.config = config;
        // Those that were still to be reset are gone with the old table.
        cx.counters.published_flows.set(0);
        Ok(())
    }
}

/// Named networks.
impl Stack {
    /// Adds a network.
    fn join(&mut self, network: NamedNetwork) -> Result<()> {
        let all = &mut self.cx.config.networks;
        let is_in = all.iter().any(|other| other.name == network.name);
        if is_in || all.len() >= MAX_NETWORKS {
            let what = match is_in {
                true => format!("The sandbox is in the network `{}` already", network.name),
                false => format!("A sandbox has at most {MAX_NETWORKS} named networks"),
            };
            return Err(Error::new(ErrorKind::InvalidConfig, what));
        }
        self.cx.switch.join(&self.cx.poller, network.clone())?;
        all.push(network);
        Ok(())
    }

    /// Takes a network away.
    fn leave(&mut self, name: &str) {
        self.cx
            .config
            .networks
            .retain(|network| network.name != name);
        self.cx.switch.leave(name);
    }
}

/// A switch that listens on the networks of `config`.
fn joined(poller: &Poller, config: &Config) -> Result<Switch> {
    let networks = &config.networks;
    if networks.len() > MAX_NETWORKS {
        let what = format!("A sandbox has at most {MAX_NETWORKS} named networks");
        return Err(Error::new(ErrorKind::InvalidConfig, what));
    }
    let mut switch = Switch::new(config.limits.peer_connections);
    for network in networks {
        switch.join(poller, network.clone())?;
    }
    Ok(switch)
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Io, "The kernel gives no random numbers").because(error)
    })?;
    Ok(u64::from_ne_bytes(bytes))
}
