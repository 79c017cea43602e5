//! The network of a sandbox that is being started.

use cofferdam_backend::Machine;
use cofferdam_base::fs;
use cofferdam_proto::GuestNetwork;
use cofferdam_types::NetworkMode;

use crate::{
    base::error::{Result, io, lift},
    network::{self, Network, Report, Rights},
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
    if record.spec.network.mode == NetworkMode::None {
        return Ok((None, None));
    }
    let networks = of.store.networks();
    let named = networks.wired(&networks.places(record)?)?;
    let (spec, is_fork) = (&record.spec.network, record.forked_from.is_some());
    let rights = rights(of)?;
    let Some(plan) = network::plan(record.id, spec, is_fork, named, rights)? else {
        return Ok((None, None));
    };
    let channel = lift(machine.network_channel())?;
    let (journal, about) = (of.store.journal(), record.clone());
    let network = Network::start(channel, &plan, of.endpoints, of.secrets, move |report| {
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

/// What the network's threads may do. Makes the directories that this is about, also for a sandbox
/// that is on no named network: it may become a member later, and rights are never given back.
fn rights(of: Starting<'_>) -> Result<Rights> {
    let (networks, sockets) = (of.layout.networks(), of.layout.all_network_sockets());
    for dir in [&networks, &sockets] {
        fs::create_private_dir(dir)
            .map_err(|error| io(format!("Could not make `{}`", dir.display()), error))?;
    }
    Ok(Rights { networks, sockets })
}
