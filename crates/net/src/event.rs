//! What a stack reports besides its counters: denials above all.
//!
//! Events never hold the stack up. They go into a channel of fixed size, and what does not fit is
//! counted. The same denial is reported once in a while only, so that a guest that tries in a loop
//! does not bury the others.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::{
    policy::{Denial, Protocol},
    stats::Counters,
};

/// Events that wait for their reader.
const QUEUE: usize = 1024;

/// Denials that are remembered so as to report them once.
const MAX_REMEMBERED: usize = 1024;

/// After this time a denial is reported again.
const AGAIN: Duration = Duration::from_secs(10);

/// Something that the user may want to see.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The policy refused a destination.
    Denied {
        /// How the guest tried.
        protocol: Protocol,
        /// Where to; port 0 for ICMP.
        destination: SocketAddr,
        /// The name that the guest said, if it was refused because of it.
        name: Option<String>,
        /// Why, and the rule that would allow it.
        denial: Denial,
    },
    /// The policy refused to look a name up.
    NameDenied {
        /// The name.
        name: String,
        /// Why, and the rule that would allow it.
        denial: Denial,
    },
    /// Addresses in the answer for a public name were refused because they are private.
    RebindingRefused {
        /// The name that the guest asked for.
        name: String,
        /// The first address that was left out.
        address: std::net::IpAddr,
    },
    /// No resolver answered.
    ResolversDown {
        /// The name that the guest asked for.
        name: String,
    },
    /// A placeholder of a secret was on its way to where its value may not go, and was blocked.
    SecretMisplaced {
        /// The secret.
        name: String,
        /// Where to: an address, or the name of a server.
        destination: String,
    },
    /// Something else about secrets, as a sentence.
    Secrets(String),
    /// A new flow was refused because there are as many as the limit allows.
    FlowLimit {
        /// Which kind of flow.
        protocol: Protocol,
        /// The limit.
        limit: usize,
    },
    /// The frame channel has ended, and the stack with it.
    ChannelClosed,
}

impl Event {
    /// The rule that would allow a denied destination or name, as a flag `--allow` takes it; none
    /// where no rule would.
    #[must_use]
    pub fn allow(&self) -> Option<&str> {
        match self {
            Self::Denied { denial, .. } | Self::NameDenied { denial, .. } => {
                (!denial.allow.is_empty()).then_some(&denial.allow)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    /// A sentence without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied {
                protocol,
                destination,
                name,
                denial,
            } => {
                write!(f, "Denied `{}/{protocol}`", Place(*protocol, *destination))?;
                if let Some(name) = name {
                    write!(f, " for `{name}`")?;
                }
                write!(f, ": {}", denial.reason)
            }
            Self::NameDenied { name, denial } => {
                write!(f, "Denied a look-up of `{name}`: {}", denial.reason)
            }
            Self::RebindingRefused { name, address } => {
                write!(
                    f,
                    "Left the private address `{address}` out of the answer for `{name}`"
                )
            }
            Self::ResolversDown { name } => {
                write!(f, "No resolver answered the query for `{name}`")
            }
            Self::FlowLimit { protocol, limit } => {
                write!(
                    f,
                    "Refused a new {protocol} flow: there are {limit}, the limit"
                )
            }
            Self::SecretMisplaced { name, destination } => {
                write!(
                    f,
                    "Blocked the placeholder of the secret `{name}` to `{destination}`"
                )
            }
            Self::Secrets(text) => f.write_str(text),
            Self::ChannelClosed => f.write_str("The machine closed its network channel"),
        }
    }
}

/// A destination as rules write it: without a port for ICMP.
struct Place(Protocol, SocketAddr);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Protocol::Icmp => self.1.ip().fmt(f),
            Protocol::Tcp | Protocol::Udp => self.1.fmt(f),
        }
    }
}

/// The sending end, owned by the stack.
#[derive(Debug)]
pub struct Events {
    sender: SyncSender<Event>,
    recent: HashMap<(Protocol, SocketAddr, Option<String>), Instant>,
    limit_reported: Option<Instant>,
}

impl Events {
    /// A channel of events. A receiver that is dropped costs nothing.
    #[must_use]
    pub fn channel() -> (Self, Receiver<Event>) {
        let (sender, receiver) = sync_channel(QUEUE);
        let events = Self {
            sender,
            recent: HashMap::new(),
            limit_reported: None,
        };
        (events, receiver)
    }

    /// Reports `event`, or counts it where the reader is slow.
    pub(crate) fn send(&self, event: Event, counters: &Arc<Counters>) {
        if let Err(std::sync::mpsc::TrySendError::Full(_)) = self.sender.try_send(event) {
            counters.events_dropped.one();
        }
    }

    /// A way for a proxy of secrets to report.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        Reporter(self.sender.clone())
    }

    /// Counts a placeholder that was blocked, and reports it if it was not reported lately.
    pub(crate) fn misplaced(
        &mut self,
        now: Instant,
        (name, destination): (String, SocketAddr),
        counters: &Arc<Counters>,
    ) {
        counters.denied.one();
        let key = (Protocol::Tcp, destination, Some(format!("secret {name}")));
        if self.is_new(now, key, counters) {
            let destination = destination.to_string();
            self.send(Event::SecretMisplaced { name, destination }, counters);
        }
    }

    /// Counts a denial, and reports it if it was not reported lately.
    pub(crate) fn denied(
        &mut self,
        now: Instant,
        (protocol, destination, name): (Protocol, SocketAddr, Option<String>),
        denial: Denial,
        counters: &Arc<Counters>,
    ) {
        counters.denied.one();
        let key = (protocol, destination, name.clone());
        if !self.is_new(now, key, counters) {
            return;
        }
        let event = Event::Denied {
            protocol,
            destination,
            name,
            denial,
        };
        self.send(event, counters);
    }

    /// Reports an event about a name, if none about it was reported lately.
    pub(crate) fn name(&mut self, now: Instant, event: Event, counters: &Arc<Counters>) {
        let name = match &event {
            Event::NameDenied { name, .. }
            | Event::RebindingRefused { name, .. }
            | Event::ResolversDown { name } => name.clone(),
            _ => return,
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        if self.is_new(now, (Protocol::Udp, nowhere, Some(name)), counters) {
            self.send(event, counters);
        }
    }

    /// Whether the same was not reported lately.
    fn is_new(
        &mut self,
        now: Instant,
        key: (Protocol, SocketAddr, Option<String>),
        counters: &Arc<Counters>,
    ) -> bool {
        if self.recent.get(&key).is_some_and(|until| *until > now) {
            return false;
        }
        if self.recent.len() >= MAX_REMEMBERED {
            self.recent.retain(|_, until| *until > now);
            if self.recent.len() >= MAX_REMEMBERED {
                counters.events_dropped.one();
                return false;
            }
        }
        self.recent.insert(key, now + AGAIN);
        true
    }

    /// Counts a flow that was refused for the limit; reports it once in a while.
    pub(crate) fn flow_limit(
        &mut self,
        now: Instant,
        protocol: Protocol,
        limit: usize,
        counters: &Arc<Counters>,
    ) {
        counters.flows_refused.one();
        if self.limit_reported.is_none_or(|until| until <= now) {
            self.limit_reported = Some(now + AGAIN);
            self.send(Event::FlowLimit { protocol, limit }, counters);
        }
    }
}

/// Reports from other threads than the stack's.
#[derive(Clone, Debug)]
pub struct Reporter(SyncSender<Event>);

impl Reporter {
    /// Reports `event` unless the reader is slow.
    pub fn send(&self, event: Event) {
        let _ = self.0.try_send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Reason;

    #[test]
    fn an_event_is_a_sentence_and_has_the_rule_that_allows_it() {
        let event = Event::Denied {
            protocol: Protocol::Tcp,
            destination: "10.0.0.1:80".parse().unwrap(),
            name: Some("a.org".to_owned()),
            denial: Denial {
                reason: Reason::Profile,
                allow: "a.org:80/tcp".to_owned(),
            },
        };
        assert_eq!(
            event.to_string(),
            "Denied `10.0.0.1:80/tcp` for `a.org`: no rule allows it"
        );
        assert_eq!(event.allow(), Some("a.org:80/tcp"));
        let ping = Event::Denied {
            protocol: Protocol::Icmp,
            destination: "[fd00::1]:0".parse().unwrap(),
            name: None,
            denial: Denial {
                reason: Reason::Host,
                allow: "host/icmp".to_owned(),
            },
        };
        assert_eq!(
            ping.to_string(),
            "Denied `fd00::1/icmp`: it is the host itself"
        );
        assert_eq!(Event::ChannelClosed.allow(), None);
    }

    #[test]
    fn a_denial_in_a_loop_is_counted_each_time_and_reported_once() {
        let (mut events, receiver) = Events::channel();
        let counters = Arc::new(Counters::default());
        let now = Instant::now();
        let denial = || Denial {
            reason: Reason::Profile,
            allow: "x".to_owned(),
        };
        let destination = |port| SocketAddr::from(([1, 2, 3, 4], port));
        for _ in 0..100 {
            let what = (Protocol::Tcp, destination(80), None);
            events.denied(now, what, denial(), &counters);
        }
        assert_eq!(counters.denied.get(), 100);
        assert_eq!(receiver.try_iter().count(), 1);
        let what = (Protocol::Tcp, destination(80), None);
        events.denied(now + AGAIN, what, denial(), &counters);
        assert_eq!(receiver.try_iter().count(), 1);
        for port in 0..5000 {
            let what = (Protocol::Udp, destination(port), None);
            events.denied(now, what, denial(), &counters);
        }
        assert!(events.recent.len() <= MAX_REMEMBERED);
        assert!(counters.events_dropped.get() > 0);
    }
}
