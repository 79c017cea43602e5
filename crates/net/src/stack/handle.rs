//! The way into a running stack from other threads.

use std::{
    fs::File,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{Sender, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::{
    capture::Capture,
    config::{Config, Rate},
    confine::Confine,
    error::{Error, ErrorKind, Result},
    named::NamedNetwork,
    policy::{Profile, Rule},
    poller::Waker,
    publish::{BoundPort, PublishId, PublishSpec, PublishedPort},
    stats::{Counters, FlowInfo, Stats},
};

/// What a handle asks of the stack's thread.
#[derive(Debug)]
pub(super) enum Command {
    Stop,
    SetPolicy {
        profile: Profile,
        rules: Vec<Rule>,
        host_addresses: Vec<IpAddr>,
    },
    SetRate(Rate),
    ResetFlows,
    ResetDenied(SyncSender<Result<usize>>),
    Configure(Box<Config>, SyncSender<Result<()>>),
    Join(Box<NamedNetwork>, SyncSender<Result<()>>),
    Leave(String, SyncSender<Result<()>>),
    Flows(SyncSender<Result<Vec<FlowInfo>>>),
    Publish(BoundPort, SyncSender<Result<PublishedPort>>),
    Unpublish(PublishId, SyncSender<Result<()>>),
    Published(SyncSender<Result<Vec<PublishedPort>>>),
    /// Gives back the capture that was.
    Capture(Option<Capture>, SyncSender<Result<Option<Capture>>>),
}

/// Changes, reads and stops a running stack. Clones are handles of the same stack.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) sender: Sender<Command>,
    pub(super) waker: Waker,
    pub(super) counters: Arc<Counters>,
    /// When the stack was made.
    pub(super) start: Instant,
    pub(super) confine: Option<Arc<dyn Confine>>,
}

impl Handle {
    fn send(&self, command: Command) -> Result<()> {
        self.sender.send(command).map_err(|_| stopped())?;
        self.waker.wake();
        Ok(())
    }

    /// Sends a command and waits for its result.
    pub(super) fn ask<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T>>) -> Command,
    ) -> Result<T> {
        let (sender, receiver) = sync_channel(1);
        self.send(command(sender))?;
        receiver.recv().map_err(|_| stopped())?
    }

    /// All counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Stops the stack. Host sockets are closed, and the guest gets no resets.
    pub fn stop(&self) {
        // A stack that has stopped already needs no command.
        let _ = self.send(Command::Stop);
    }

    /// Replaces the policy. Flows that exist go on.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn set_policy(
        &self,
        profile: Profile,
        rules: Vec<Rule>,
        host_addresses: Vec<IpAddr>,
    ) -> Result<()> {
        self.send(Command::SetPolicy {
            profile,
            rules,
            host_addresses,
        })
    }

    /// Replaces the rate limits.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn set_rate(&self, rate: Rate) -> Result<()> {
        self.send(Command::SetRate(rate))
    }

    /// Resets every flow on both sides, for a guest that has a new identity.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn reset_flows(&self) -> Result<()> {
        self.send(Command::ResetFlows)
    }

    /// Resets the flows of the guest that the policy does not allow any more, on both sides; they
    /// are denials like others. Returns how many TCP and UDP flows there were. Connections to
    /// published ports go on. A name by which the guest came to an address holds for the life of
    /// its flow, whatever the name's time to live is.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn reset_denied(&self) -> Result<usize> {
        self.ask(Command::ResetDenied)
    }

    /// When a published port was last used: now while it has a connection or UDP peer; absent
    /// before the first.
    #[must_use]
    pub fn last_published_use(&self) -> Option<Instant> {
        let stats = self.counters.read();
        match (stats.published_flows, stats.published_changed_ms) {
            (0, 0) => None,
            (0, since) => Some(self.start + Duration::from_millis(since - 1)),
            _ => Some(Instant::now()),
        }
    }

    /// Gives the guest a new identity: addresses, MAC, resolvers, names, limits. Every flow is
    /// reset on both sides; published ports stay.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `InvalidConfig`, and then nothing has changed; `Io`, `Stopped`.
    pub fn configure(&self, config: Config) -> Result<()> {
        self.ask(|sender| Command::Configure(Box::new(config), sender))
    }

    /// Makes the guest a member of a named network. Flows that exist go on.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `InvalidConfig` for one network too many or one that it is in already, `Io`, `Stopped`.
    pub fn join(&self, network: NamedNetwork) -> Result<()> {
        self.ask(|sender| Command::Join(Box::new(network), sender))
    }

    /// Ends the guest's membership of the network `name`, if it has one.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn leave(&self, name: &str) -> Result<()> {
        self.ask(|sender| Command::Leave(name.to_owned(), sender))
    }

    /// The TCP and UDP flows that the guest or a published port has begun.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn flows(&self) -> Result<Vec<FlowInfo>> {
        self.ask(Command::Flows)
    }

    /// Listens on a host port for the guest. Returns it with the port that the kernel chose, where
    /// the host port is 0.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `PortTaken`, `PortForbidden`, `InvalidConfig`, `Io`, `Stopped`.
    pub fn publish(&self, asked: PublishSpec) -> Result<PublishedPort> {
        self.publish_bound(BoundPort::bind(&asked)?)
    }

    /// Serves a port that listens already.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `Io`, `Stopped`; then it does not listen any more.
    pub fn publish_bound(&self, port: BoundPort) -> Result<PublishedPort> {
        self.ask(|sender| Command::Publish(port, sender))
    }

    /// Stops listening. Connections that exist go on.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `NotPublished`, `Stopped`.
    pub fn unpublish(&self, id: PublishId) -> Result<()> {
        self.ask(|sender| Command::Unpublish(id, sender))
    }

    /// The published ports.
    ///
    /// # Blocking
    /// Waits for the stack's thread.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn published(&self) -> Result<Vec<PublishedPort>> {
        self.ask(Command::Published)
    }

    /// Writes all frames from now on to `file` in pcap format, or ends that. A capture that ends
    /// is complete when this returns.
    ///
    /// # Blocking
    /// Waits for the stack's thread, and then until the frames of the capture before are in its
    /// file. The stack goes on meanwhile, however slow that file is.
    ///
    /// # Errors
    /// `Io` when the file cannot be written, `Stopped`.
    pub fn capture(&self, file: Option<File>) -> Result<()> {
        let start = |file| Capture::start(file, self.confine.clone());
        let next = file.map(start).transpose()?;
        let previous = self.ask(|sender| Command::Capture(next, sender))?;
        // This waits for the disk, which the stack's thread must not do.
        drop(previous);
        Ok(())
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Stopped, "The sandbox's network has stopped")
}
