//! What clients see and change of the network. The network is asked on blocking threads, one change
//! after the other; the loop only takes their results.

use std::collections::VecDeque;

use cofferdam_proto::{NetworkChange, NetworkStatus, SupervisorMessage};
use cofferdam_types::PortMapping;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::Switchboard;
use crate::{
    base::{
        error::{Error, ErrorKind, Result, to_remote},
        task::log_line,
    },
    network::{self, Control, Network, Planned},
    store::{SandboxRecord, Store, event::EventKind},
    supervisor::event::{ClientId, Event, NetworkChanged},
};

/// Most changes that wait: each is as large as a request may be.
const MAX_WAITING: usize = 16;

/// Changes that wait for the one that is under way.
#[derive(Debug, Default)]
pub(super) struct NetworkChanges {
    /// Is dropped at the other end once the change is made.
    under_way: Option<oneshot::Receiver<()>>,
    waiting: VecDeque<(ClientId, NetworkChange)>,
}

impl NetworkChanges {
    /// Has a change wait.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when too many do.
    fn push(&mut self, id: ClientId, change: NetworkChange) -> Result<()> {
        if self.waiting.len() >= MAX_WAITING {
            let what = format!("{MAX_WAITING} changes of the network wait already");
            return Err(Error::new(ErrorKind::WrongState, what).hint("Try it again later"));
        }
        self.waiting.push_back((id, change));
        Ok(())
    }

    /// Nobody wants what this client has asked for. A change that is under way is made.
    pub(super) fn forget(&mut self, id: ClientId) {
        self.waiting.retain(|(client, _)| *client != id);
    }
}

impl Switchboard {
    /// Answers what there is to see of the network.
    pub(super) fn show_network(&self, id: ClientId) -> Result<()> {
        let control = self.network_control()?;
        let (ports, events) = (self.entry.state.ports.clone(), self.events.clone());
        spawn_blocking(move || {
            let _ = events.blocking_send(Event::Network(id, control.status(ports)));
        });
        Ok(())
    }

    pub(super) fn network_seen(&self, id: ClientId, status: Result<NetworkStatus>) {
        let answer = match status {
            Ok(status) => SupervisorMessage::Network(Box::new(status)),
            Err(error) => SupervisorMessage::Failed(to_remote(&error)),
        };
        self.answer(id, &answer);
    }

    /// Changes the network, or has the change wait for the one before.
    pub(super) fn change_network(&mut self, id: ClientId, change: NetworkChange) -> Result<()> {
        if self.network_changes.under_way.is_some() {
            return self.network_changes.push(id, change);
        }
        let control = self.network_control()?;
        let old = &self.entry.record.spec.network;
        let ports = self.entry.state.ports.clone();
        let planned = network::planned(old, &ports, &change)?;
        let changes = planned.sentences(old);
        let mut record = self.entry.record.clone();
        record.spec.network = planned.spec.clone();
        let before = self.entry.record.clone();
        let layout = self.store.layout().clone();
        let events = self.events.clone();
        let (made, under_way) = oneshot::channel();
        self.network_changes.under_way = Some(under_way);
        spawn_blocking(move || {
            let outcome = (ports, changes);
            let changed = apply(&control, &planned, (&before, record), outcome, |record| {
                Store::write_record(&layout, record)
            });
            drop(made);
            let _ = events.blocking_send(Event::NetworkChanged(id, Box::new(changed)));
        });
        Ok(())
    }

    /// A change is over: writes down what it has made, and begins the next.
    pub(super) fn network_changed(&mut self, id: ClientId, changed: Result<NetworkChanged>) {
        self.network_changes.under_way = None;
        let status = changed.map(|changed| {
            self.entry.record = changed.record;
            self.entry.state.ports = changed.ports;
            self.save_state();
            let changes = changed.changes;
            if !changes.is_empty() {
                let event = EventKind::NetworkChanged { changes };
                self.store.note(&self.entry.record, event);
            }
            changed.status
        });
        self.network_seen(id, status);
        while self.network_changes.under_way.is_none()
            && let Some((id, change)) = self.network_changes.waiting.pop_front()
        {
            if let Err(error) = self.change_network(id, change) {
                self.network_seen(id, Err(error));
            }
        }
    }

    /// Waits for a change that is under way, at the sandbox's end: nothing may write its record or
    /// its places on networks once its lock is given up. The change takes a few turns of the
    /// stack's thread, and does not wait for the guest any more.
    pub(in crate::supervisor) async fn end_network_changes(&mut self) {
        self.network_changes.waiting.clear();
        if let Some(under_way) = self.network_changes.under_way.take() {
            // Its sender is dropped.
            let _ = under_way.await;
        }
        if let Some(membership) = self.membership.take() {
            membership.end().await;
        }
    }

    pub(super) fn network_control(&self) -> Result<Control> {
        let network = self.network.as_ref().map(Network::control);
        network.ok_or_else(|| {
            let what = format!("Sandbox `{}` has no network", self.entry.record.name);
            Error::new(ErrorKind::InvalidSpec, what)
                .hint("A network cannot be added: make the sandbox with one")
        })
    }
}

/// Makes a change: what can fail comes first, and a failure leaves all as it was.
fn apply(
    control: &Control,
    planned: &Planned,
    (before, record): (&SandboxRecord, SandboxRecord),
    (mut ports, changes): (Vec<PortMapping>, Vec<String>),
    write: impl Fn(&SandboxRecord) -> Result<()>,
) -> Result<NetworkChanged> {
    let policy = planned.policy()?;
    let made = control.publish(planned)?;
    write(&record).inspect_err(|_| control.unpublish(&made))?;
    let ended_flows = control.change(planned, policy).inspect_err(|_| {
        control.unpublish(&made);
        if let Err(error) = write(before) {
            log_line(&error.chain());
        }
    })?;
    ports.retain(|port| !planned.is_unpublished(port));
    ports.extend(made);
    let status = NetworkStatus {
        ended_flows,
        ..control.status_or_less(ports.clone())
    };
    Ok(NetworkChanged {
        record,
        ports,
        changes,
        status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_wait_are_bounded_and_those_of_a_client_that_left_are_not_made() {
        let mut changes = NetworkChanges::default();
        for id in 0..MAX_WAITING as ClientId {
            changes.push(id, NetworkChange::default()).unwrap();
        }
        let full = changes.push(99, NetworkChange::default()).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WrongState);
        changes.forget(3);
        assert!(changes.waiting.iter().all(|(id, _)| *id != 3));
        changes.push(99, NetworkChange::default()).unwrap();
    }
}
