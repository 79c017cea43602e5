//! A sandbox's lease: when its time is over. It knows no machine: [`super::switchboard`] passes on
//! what happens and does what has to be done.
//!
//! ```text
//!             a time-out is over             on_timeout: kill
//!   Runs ──────────────────────────► Over ─────────────────────► the sandbox ends
//!   │  ▲                              │ ▲
//!   │  ├── unpaused, or changed ◄─────┘ │  on_timeout: pause; it is paused as soon as it can be
//!   │  │                                │
//!   │  └── unpaused ◄──┐                │ the time-out is over (kill)
//!   └── paused ──────► Paused ──────────┘
//! ```
//! When a sandbox is unpaused whose time was over, all its time begins anew. While a client has paused
//! the sandbox, its time-out goes on, but nothing counts as idle.
//!
//! Time is that of the monotonic clock, so a change of the host's clock does not matter, and the
//! time in which the host sleeps does not count.

use std::time::Duration;

use cofferdam_types::{LeaseSpec, OnTimeout};
use tokio::time::Instant;

use crate::store::EndedBy;

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest runs: both time-outs count. Nothing has used it since that moment.
    Runs { idle_since: Instant },
    /// A client has paused it.
    Paused,
    /// This time-out is over.
    Over(EndedBy),
}

/// A sandbox's lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    spec: LeaseSpec,
    /// When the time-out is over; none without one.
    ends: Option<Instant>,
    phase: Phase,
}

/// What a client asks of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The time from now on; none for no limit.
    pub(super) timeout: Option<Duration>,
    /// Whether the end may only become later.
    pub(super) extend: bool,
}

impl Lease {
    /// The lease of a sandbox whose workload starts now.
    pub(super) fn new(spec: LeaseSpec, now: Instant) -> Self {
        Self {
            spec,
            ends: after(now, spec.timeout),
            phase: Phase::Runs { idle_since: now },
        }
    }

    /// What happens at its end.
    pub(super) const fn on_timeout(&self) -> OnTimeout {
        self.spec.on_timeout
    }

    /// When the time-out is over; none without one.
    pub(super) const fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// The time-out that is over.
    pub(super) const fn over(&self) -> Option<EndedBy> {
        match self.phase {
            Phase::Over(by) => Some(by),
            Phase::Runs { .. } | Phase::Paused => None,
        }
    }

    /// Something has used the sandbox at that time.
    pub(super) fn used(&mut self, at: Instant) {
        if let Phase::Runs { idle_since } = &mut self.phase {
            *idle_since = at.max(*idle_since);
        }
    }

    /// When it has to be looked at next, if ever.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.phase {
            Phase::Runs { idle_since } => {
                let idle = after(idle_since, self.spec.idle_timeout);
                self.ends.into_iter().chain(idle).min()
            }
            // A paused sandbox cannot be paused again.
            Phase::Paused if self.spec.on_timeout == OnTimeout::Pause => None,
            Phase::Paused => self.ends,
            Phase::Over(_) => None,
        }
    }

    /// Looks whether a time-out is over, and which one, if that is new.
    pub(super) fn expire(&mut self, now: Instant) -> Option<EndedBy> {
        if self.next().is_none_or(|next| next > now) {
            return None;
        }
        let by = match self.ends {
            Some(ends) if ends <= now => EndedBy::Timeout,
            _ => EndedBy::IdleTimeout,
        };
        self.phase = Phase::Over(by);
        Some(by)
    }

    /// A client has paused the sandbox.
    pub(super) fn paused(&mut self) {
        if let Phase::Runs { .. } = self.phase {
            self.phase = Phase::Paused;
        }
    }

    /// The sandbox goes on after a pause.
    pub(super) fn unpaused(&mut self, now: Instant) {
        let has_passed = self.ends.is_some_and(|ends| ends <= now);
        match self.phase {
            // Otherwise it would be paused again at once.
            Phase::Paused if has_passed => *self = Self::new(self.spec, now),
            Phase::Over(_) => *self = Self::new(self.spec, now),
            Phase::Paused | Phase::Runs { .. } => self.phase = Phase::Runs { idle_since: now },
        }
    }

    /// A client wants another end. What is over stays so until the sandbox is unpaused, and has
    /// the new time-out from then on.
    pub(super) fn change(&mut self, change: Change, now: Instant) {
        let ends = after(now, change.timeout);
        let is_later = match (self.ends, ends) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(old), Some(new)) => new > old,
        };
        if !change.extend || is_later {
            self.spec.timeout = change.timeout;
            self.ends = ends;
        }
    }
}

/// A moment that is too far away for the clock is never.
fn after(from: Instant, time: Option<Duration>) -> Option<Instant> {
    time.and_then(|time| from.checked_add(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(timeout: Option<u64>, idle: Option<u64>, on_timeout: OnTimeout) -> (Lease, Instant) {
        let spec = LeaseSpec {
            timeout: timeout.map(secs),
            idle_timeout: idle.map(secs),
            on_timeout,
        };
        let now = Instant::now();
        (Lease::new(spec, now), now)
    }

    #[test]
    fn the_earlier_time_out_counts_and_use_defers_only_the_idle_one() {
        let (mut lease, now) = lease(Some(60), Some(10), OnTimeout::Kill);
        assert_eq!(lease.next(), Some(now + secs(10)));
        assert_eq!(lease.expire(now + secs(9)), None);
        lease.used(now + secs(55));
        assert_eq!(lease.next(), Some(now + secs(60)));
        assert_eq!(lease.expire(now + secs(60)), Some(EndedBy::Timeout));
        assert_eq!((lease.next(), lease.over()), (None, Some(EndedBy::Timeout)));
        assert_eq!(lease.expire(now + secs(99)), None, "it is reported once");
    }

    #[test]
    fn an_idle_sandbox_ends_before_its_time() {
        let (mut lease, now) = lease(Some(60), Some(10), OnTimeout::Kill);
        lease.used(now + secs(5));
        assert_eq!(lease.expire(now + secs(15)), Some(EndedBy::IdleTimeout));
    }

    #[test]
    fn a_lease_without_time_outs_never_ends() {
        let (mut lease, now) = lease(None, None, OnTimeout::Kill);
        assert_eq!(lease.next(), None);
        assert_eq!(lease.expire(now + secs(1 << 30)), None);
        let far = LeaseSpec {
            timeout: Some(Duration::MAX),
            ..LeaseSpec::default()
        };
        assert_eq!(Lease::new(far, now).next(), None);
    }

    #[test]
    fn in_a_pause_of_a_client_only_the_life_ends_and_only_by_a_kill() {
        let (mut killed, now) = lease(Some(60), Some(10), OnTimeout::Kill);
        killed.paused();
        assert_eq!(killed.next(), Some(now + secs(60)));
        killed.unpaused(now + secs(30));
        assert_eq!(killed.next(), Some(now + secs(40)), "idle begins anew");
        killed.paused();
        assert_eq!(killed.expire(now + secs(60)), Some(EndedBy::Timeout));

        let (mut stands, now) = lease(Some(60), Some(10), OnTimeout::Pause);
        stands.paused();
        assert_eq!(stands.next(), None);
        stands.unpaused(now + secs(70));
        assert_eq!(stands.next(), Some(now + secs(80)));
        stands.paused();
        stands.unpaused(now + secs(100));
        assert_eq!(
            stands.next(),
            Some(now + secs(110)),
            "the life ends at 130 s"
        );
    }

    #[test]
    fn after_its_own_pause_all_begins_anew() {
        let (mut lease, now) = lease(Some(60), None, OnTimeout::Pause);
        lease.expire(now + secs(60)).unwrap();
        lease.paused();
        assert_eq!(lease.over(), Some(EndedBy::Timeout));
        lease.unpaused(now + secs(100));
        assert_eq!((lease.over(), lease.next()), (None, Some(now + secs(160))));
    }

    #[test]
    fn an_end_is_set_earlier_or_later_and_extended_only_to_later() {
        let (mut lease, now) = lease(Some(60), None, OnTimeout::Kill);
        let mut changed = |timeout: Option<u64>, extend| {
            let timeout = timeout.map(secs);
            lease.change(Change { timeout, extend }, now);
            lease.next().map(|next| (next - now).as_secs())
        };
        assert_eq!(changed(Some(30), false), Some(30));
        assert_eq!(changed(Some(20), true), Some(30));
        assert_eq!(changed(Some(40), true), Some(40));
        assert_eq!(changed(None, true), None);
        assert_eq!(changed(Some(40), true), None, "no end is the latest");
        assert_eq!(changed(Some(5), false), Some(5));
    }
}
