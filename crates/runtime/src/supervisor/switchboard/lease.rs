//! The lease of a sandbox that runs: one timer, and what is done when it is over.
//!
//! The timer is set for the earliest moment at which the lease can be over. Use of the sandbox only
//! moves a time stamp; when the timer ends and the sandbox was used meanwhile, it is set again. So
//! an idle time-out costs one event in each of its spans.

use std::time::Duration;

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{FrameKind, RemoteFailure};
use cofferdam_types::OnTimeout;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    Switchboard,
    run_state::{Purpose, RunState},
    steps,
};
use crate::{
    base::error::to_remote,
    link::FromAgent,
    network::Network,
    store::{EndedBy, LeaseState, event::EventKind},
    supervisor::{
        event::{ClientEvent, Event},
        lease::{Change, Lease},
    },
};

/// When a pause is tried again that the guest did not take part in.
const RETRY: Duration = Duration::from_secs(30);

/// The lease with its timer.
#[derive(Debug)]
pub(super) struct Leased {
    lease: Lease,
    timer: Option<JoinHandle<()>>,
}

impl Leased {
    pub(super) const fn new(lease: Lease) -> Self {
        Self { lease, timer: None }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

impl Switchboard {
    /// Sets the timer for the next moment at which the lease can be over.
    pub(super) fn set_lease_timer(&mut self) {
        let next = self.leased.lease.next();
        self.set_timer(next);
    }

    fn set_timer(&mut self, at: Option<Instant>) {
        if let Some(old) = self.leased.timer.take() {
            old.abort();
        }
        self.leased.timer = at.map(|at| {
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = events.send(Event::LeaseTime).await;
            })
        });
    }

    /// Notes that something uses the sandbox, if that is what the event is, or if a command, a byte
    /// stream or an attached client was there until now.
    pub(super) fn note_use(&mut self, event: &Event) {
        let is_transfer = match event {
            Event::Agent(FromAgent::Frame(frame)) => frame.kind != FrameKind::Control,
            Event::Client(_, ClientEvent::Input { .. }) => true,
            _ => false,
        };
        let is_connected = !self.sessions.is_empty() || !self.streams.is_empty();
        if is_transfer || is_connected || self.workload.is_followed() {
            self.leased.lease.used(Instant::now());
        }
    }

    /// The timer has ended.
    pub(super) fn lease_time(&mut self) {
        // The network's thread notes the time alone, so that packets are no events here.
        let used = self.network.as_ref().and_then(Network::last_published_use);
        if let Some(used) = used {
            self.leased.lease.used(Instant::from_std(used));
        }
        if self.leased.lease.expire(Instant::now()).is_some() {
            self.save_lease();
        }
        if self.leased.lease.over().is_some() {
            self.enforce_lease();
        } else {
            self.set_lease_timer();
        }
    }

    /// Does what the lease says about its end, if it is over.
    fn enforce_lease(&mut self) {
        let Some(by) = self.leased.lease.over().filter(|_| !self.stop_asked()) else {
            return;
        };
        match self.leased.lease.on_timeout() {
            OnTimeout::Pause if self.run_state == RunState::Runs => {
                self.begin(None, Purpose::Pause, steps::pause);
            }
            // A step is under way, after which this is called again; or it is paused.
            OnTimeout::Pause => {}
            _ => self.force(by),
        }
    }

    /// A pause, its end or a capture is over; `failed` if that was a pause that failed.
    pub(super) fn lease_after_step(&mut self, was_paused: bool, failed: bool) {
        match self.run_state {
            _ if self.stop_asked() => {}
            RunState::Moves(_) => {}
            RunState::Paused => {
                self.leased.lease.paused();
                self.set_lease_timer();
            }
            RunState::Runs if was_paused => {
                self.leased.lease.unpaused(Instant::now());
                self.save_lease();
                self.set_lease_timer();
            }
            RunState::Runs if failed && self.leased.lease.over().is_some() => {
                self.set_timer(Instant::now().checked_add(RETRY));
            }
            RunState::Runs => self.enforce_lease(),
        }
    }

    /// A client wants another end.
    pub(super) fn set_timeout(&mut self, change: Change) {
        self.leased.lease.change(change, Instant::now());
        self.save_lease();
        let ends_ns = self.entry.state.lease.and_then(|lease| lease.ends_ns);
        let event = EventKind::TimeoutChanged { ends_ns };
        self.store.note(&self.entry.record, event);
        // One that is over stays so.
        if self.leased.lease.over().is_none() {
            self.set_lease_timer();
        }
    }

    fn save_lease(&mut self) {
        self.entry.state.lease = state_of(&self.leased.lease);
        self.save_state();
    }

    /// The time-out that is over.
    pub(super) const fn lease_over(&self) -> Option<EndedBy> {
        self.leased.lease.over()
    }

    /// The error that clients of the sandbox get when its lease has ended it.
    pub(super) fn lease_warning(&self) -> Option<RemoteFailure> {
        let error = self.ended_by?.lease_error()?;
        Some(to_remote(&error))
    }
}

/// How a lease is written down; nothing of one without a time-out.
pub(super) fn state_of(lease: &Lease) -> Option<LeaseState> {
    let left = |ends: Instant| ends.saturating_duration_since(Instant::now());
    let ends_ns = lease.ends().map(|ends| {
        let left = u64::try_from(left(ends).as_nanos()).unwrap_or(u64::MAX);
        unix_time_ns().saturating_add(left)
    });
    let over: Option<EndedBy> = lease.over();
    (ends_ns.is_some() || over.is_some()).then_some(LeaseState { ends_ns, over })
}
