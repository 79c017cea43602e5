//! What all parts of a stack share: the way to the guest, the policy, the names, the counters.

mod egress;
mod names;
mod own;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

pub(crate) use egress::Egress;
pub(crate) use names::Names;
pub(crate) use own::Own;

use crate::{
    config::Config,
    event::Events,
    policy::{Decision, Denial, Name, Policy, Protocol, Query, Reason},
    poller::Poller,
    stats::Counters,
    switch::Switch,
};

/// The port of HTTP/3.
const QUIC: u16 = 443;

/// Shared by all parts, and owned by the stack's thread.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    /// The time of this turn of the loop.
    pub(crate) now: Instant,
    /// When the stack was made.
    pub(crate) start: Instant,
    pub(crate) poller: Poller,
    pub(crate) egress: Egress,
    pub(crate) policy: Policy,
    pub(crate) names: Names,
    pub(crate) own: Own,
    pub(crate) switch: Switch,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Events,
}

/// Where a guest's flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The address for the host's socket.
    pub(crate) address: SocketAddr,
    /// How the name that the guest says in TLS or HTTP is checked; absent: not.
    pub(crate) check_name: Option<NameCheck>,
    /// Names by which the guest may have come to it, the first [`MAX_FLOW_NAMES`] of them.
    pub(crate) names: Vec<Name>,
}

/// Names that a flow keeps: a hostile server of names could give one address thousands.
const MAX_FLOW_NAMES: usize = 4;

/// How a name that a guest says is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameCheck {
    /// A rule on a name has opened the address, so a rule has to allow the name that is said.
    /// Otherwise it is enough that none denies it.
    pub(crate) by_name: bool,
}

impl Context {
    /// Counts a connection or peer of a published port.
    pub(crate) fn published_began(&self) {
        self.counters.published_flows.one();
        self.published_changed();
    }

    /// Counts the end of one.
    pub(crate) fn published_ended(&self) {
        // First: a reader that sees no connection must not see the time of its beginning.
        self.published_changed();
        self.counters.published_flows.less_one();
    }

    fn published_changed(&self) {
        let since = self.now.saturating_duration_since(self.start).as_millis();
        let since = usize::try_from(since).unwrap_or(usize::MAX);
        self.counters
            .published_changed_ms
            .set(since.saturating_add(1));
    }

    /// Asks the policy about a new flow to `destination`. A denial is counted and reported.
    pub(crate) fn admit(
        &mut self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Option<Destination> {
        let names = self.names.of(destination.ip(), self.now);
        self.admit_named(protocol, destination, names)
    }

    /// The same about a flow that exists and to which the guest came by `names`: they hold as long
    /// as the flow does.
    pub(crate) fn admit_again(
        &mut self,
        protocol: Protocol,
        destination: SocketAddr,
        names: &[Name],
    ) -> Option<Destination> {
        let mut all = self.names.of(destination.ip(), self.now);
        for name in names {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        self.admit_named(protocol, destination, all)
    }

    fn admit_named(
        &mut self,
        protocol: Protocol,
        destination: SocketAddr,
        mut names: Vec<Name>,
    ) -> Option<Destination> {
        let is_host = self.config.is_host(destination.ip());
        let mut query = Query {
            protocol,
            address: destination.ip(),
            port: destination.port(),
            is_host,
            is_own: false,
            names: &names,
        };
        let mut decision = self.policy.decide(&query);
        // Asked for what would pass only, so that a flood of denied packets costs no calls.
        if matches!(decision, Decision::Allow { .. }) && !is_host {
            query.is_own = self.own.has(destination.ip());
            if query.is_own {
                decision = self.policy.decide(&query);
            }
        }
        // Under the profile `all` it would be a stranger's with the same number.
        if self.config.guest_like(destination.ip()) == Some(destination.ip()) {
            decision = Decision::Deny(Denial {
                reason: Reason::Own,
                allow: String::new(),
            });
        }
        if self.config.is_internal() {
            decision = Decision::Deny(Denial {
                reason: Reason::Internal,
                allow: String::new(),
            });
        }
        if protocol == Protocol::Udp
            && destination.port() == QUIC
            && self.config.secrets.is_some()
            && matches!(decision, Decision::Allow { .. })
        {
            // Clients go on with TCP. No rule would help.
            decision = Decision::Deny(Denial {
                reason: Reason::Secrets,
                allow: String::new(),
            });
        }
        match decision {
            Decision::Allow { by_name } => Some(Destination {
                names: {
                    names.truncate(MAX_FLOW_NAMES);
                    names
                },
                address: if is_host {
                    SocketAddr::new(loopback_like(destination.ip()), destination.port())
                } else {
                    destination
                },
                check_name: (by_name || (!is_host && self.policy.denies_names()))
                    .then_some(NameCheck { by_name }),
            }),
            Decision::Deny(denial) => {
                let what = (protocol, destination, None);
                self.events.denied(self.now, what, denial, &self.counters);
                None
            }
        }
    }

    /// Asks the policy about the name that a guest says inside a flow to `destination`; with
    /// `by_name` a rule has to allow it. A denial is counted and reported.
    pub(crate) fn admit_name(
        &mut self,
        name: &Name,
        destination: SocketAddr,
        by_name: bool,
    ) -> bool {
        let denial = match self.policy.decide_name(name, Some(destination.port())) {
            Decision::Allow { by_name: true } => return true,
            Decision::Allow { by_name: false } if !by_name => return true,
            Decision::Allow { .. } => Denial {
                reason: Reason::Profile,
                allow: name.to_string(),
            },
            Decision::Deny(denial) => denial,
        };
        let what = (Protocol::Tcp, destination, Some(name.to_string()));
        let denial = Denial {
            allow: format!("{name}:{}/tcp", destination.port()),
            ..denial
        };
        self.events.denied(self.now, what, denial, &self.counters);
        false
    }

    /// Counts and reports a flow to `destination` whose name cannot be read.
    pub(crate) fn deny_hidden_name(&mut self, destination: SocketAddr) {
        let denial = Denial {
            reason: Reason::HiddenName,
            allow: match destination {
                SocketAddr::V4(address) => format!("{address}/tcp"),
                SocketAddr::V6(address) => format!("[{}]:{}/tcp", address.ip(), address.port()),
            },
        };
        let what = (Protocol::Tcp, destination, None);
        self.events.denied(self.now, what, denial, &self.counters);
    }
}

fn loopback_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
