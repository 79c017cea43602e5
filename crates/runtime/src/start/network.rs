//! The network of a sandbox that is being started.

use cofferdam_backend::Machine;
use cofferdam_proto::GuestNetwork;

use crate::{
    base::error::{Result, lift},
    network::{self, Network, Report},
    store::event::{Event, EventKind},
    supervisor::Starting,
};

/// Starts the stack for the interface of `machine`, before a process of the user runs. Returns it
/// with what the agent is to set up; `None` twice for a sandbox without a network. What the policy
/// refuses goes into the journal.
///
/// # Errors
/// Those of the spec, of the ports of the host, and of the machine's channel.
pub(crate) fn network(
    of: Starting<'_>,
    machine: &dyn Machine,
) -> Result<(Option<Network>, Option<GuestNetwork>)> {
    let record = &of.entry.record;
    let Some(plan) = network::plan(
        record.id,
        &record.spec.network,
        record.forked_from.is_some(),
    )?
    else {
        return Ok((None, None));
    };
    let channel = lift(machine.network_channel())?;
    let (journal, about) = (of.store.journal(), record.clone());
    let network = Network::start(channel, &plan, of.endpoints, move |report| {
        let kind = match report {
            Report::Denied {
                destination,
                reason,
                allow,
            } => EventKind::NetworkDenied {
                destination,
                reason,
                allow,
            },
            Report::Notice(message) => EventKind::Network { message },
        };
        // An event that cannot be written must not stop what it is about.
        let _ = journal.append(&Event::now(&about, kind));
    })?;
    Ok((Some(network), Some(plan.guest)))
}
