//! What a stack reports besides its counters: denials above all.
//!
//! Events never hold the stack up. They go into a channel of fixed size, and what does not fit is
//! counted. The same denial is reported once in a while only, so that a guest that tries in a loop
//! does not bury the others.

use std::{
    collections::HashMap,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Reason;

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
