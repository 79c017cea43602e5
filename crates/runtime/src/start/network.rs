//! The network of a sandbox that is being started.

use std::sync::Arc;

use cofferdam_backend::Machine;
use cofferdam_base::fs;
use cofferdam_net::NamedNetwork;
use cofferdam_proto::GuestNetwork;
use cofferdam_types::NetworkMode;

use crate::{
    base::error::{Result, io, lift},
    network::{self, Network, Report, Rights},
    store::{
        event::{Event, EventKind},
        networks::{MemberRecord, MembersFile, NetworkRecord},
    },
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
    let (spec, is_fork) = (&record.spec.network, record.forked_from.is_some());
    let rights = rights(of)?;
    let Some(plan) = network::plan(record.id, spec, is_fork, networks(of)?, rights)? else {
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

/// The sandbox's places on named networks, with the directories of their sockets.
fn networks(of: Starting<'_>) -> Result<Vec<NamedNetwork>> {
    let networks = of.store.networks();
    let named = |(network, member): (NetworkRecord, MemberRecord)| {
        let sockets = of.layout.network_sockets(&network.id);
        fs::create_private_dir(&sockets)
            .map_err(|error| io(format!("Could not make `{}`", sockets.display()), error))?;
        Ok(NamedNetwork {
            v4: (network.subnet.first(), network.subnet.bits()),
            v6: network.subnet_v6,
            number: member.number,
            internal: network.internal,
            directory: Arc::new(MembersFile::new(networks.members_path(&network.name))),
            sockets,
            name: network.name,
        })
    };
    let places = networks.places(&of.entry.record)?;
    places.into_iter().map(named).collect()
}
