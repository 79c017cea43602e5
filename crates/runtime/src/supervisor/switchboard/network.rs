//! What clients see and change of the network. The network is asked on blocking threads, one change
//! after the other; the loop only takes their results.

use std::collections::VecDeque;

use cofferdam_proto::{NetworkChange, NetworkStatus, SupervisorMessage};
use cofferdam_types::PortMapping;
use tokio::task::spawn_blocking;

use super::Switchboard;
use crate::{
    base::error::{Error, ErrorKind, Result, to_remote},
    network::{self, Control, Network, Planned},
    store::{SandboxRecord, Store, event::EventKind},
    supervisor::event::{ClientId, Event, NetworkChanged},
};

/// Changes that wait for the one that is under way.
#[derive(Debug, Default)]
pub(super) struct NetworkChanges {
    is_under_way: bool,
    waiting: VecDeque<(ClientId, NetworkChange)>,
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
        if self.network_changes.is_under_way {
            self.network_changes.waiting.push_back((id, change));
            return Ok(());
        }
        let control = self.network_control()?;
        let old = &self.entry.record.spec.network;
        let ports = self.entry.state.ports.clone();
        let planned = network::planned(old, &ports, &change)?;
        let changes = planned.sentences(old);
        let mut record = self.entry.record.clone();
        record.spec.network = planned.spec.clone();
        let layout = self.store.layout().clone();
        let events = self.events.clone();
        self.network_changes.is_under_way = true;
        spawn_blocking(move || {
            let changed = apply(&control, &planned, (record, ports), changes, |record| {
                Store::write_record(&layout, record)
            });
            let _ = events.blocking_send(Event::NetworkChanged(id, Box::new(changed)));
        });
        Ok(())
    }

    /// A change is over: writes down what it has made, and begins the next.
    pub(super) fn network_changed(&mut self, id: ClientId, changed: Result<NetworkChanged>) {
        self.network_changes.is_under_way = false;
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
        while !self.network_changes.is_under_way
            && let Some((id, change)) = self.network_changes.waiting.pop_front()
        {
            if let Err(error) = self.change_network(id, change) {
                self.network_seen(id, Err(error));
            }
        }
    }

    fn network_control(&self) -> Result<Control> {
        let network = self.network.as_ref().map(Network::control);
        network.ok_or_else(|| {
            let what = format!("Sandbox `{}` has no network", self.entry.record.name);
            Error::new(ErrorKind::InvalidSpec, what)
                .hint("A network cannot be added: make the sandbox with one")
        })
    }
}

/// Makes a change: what can fail comes first, so that a failure leaves all as it was.
fn apply(
    control: &Control,
    planned: &Planned,
    (record, mut ports): (SandboxRecord, Vec<PortMapping>),
    changes: Vec<String>,
    write: impl FnOnce(&SandboxRecord) -> Result<()>,
) -> Result<NetworkChanged> {
    let made = control.publish(planned)?;
    write(&record).inspect_err(|_| control.unpublish(&made))?;
    let ended_flows = control.change(planned)?;
    ports.retain(|port| !planned.is_unpublished(port));
    ports.extend(made);
    let status = NetworkStatus {
        ended_flows,
        ..control.status(ports.clone())?
    };
    Ok(NetworkChanged {
        record,
        ports,
        changes,
        status,
    })
}
