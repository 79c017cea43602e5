//! Named networks that a sandbox joins and leaves while it runs.
//!
//! Three have to agree: the list of the network's members, the stack and the guest. A join begins
//! with the list, which gives the address. A leave ends with it, so that nobody gets an address that
//! is in use. What cannot be done is taken back from the end to the beginning.
//!
//! It is a step like a pause: the guest is not frozen meanwhile, and no two change its addresses.

use std::time::Duration;

use cofferdam_net::NamedNetwork;
use cofferdam_proto::{AgentMessage, HostMessage, NetworkIdentity};
use cofferdam_types::NetworkAttachment;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    Switchboard,
    dialog::{Guest, unexpected},
    run_state::Purpose,
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result},
        task::log_line,
    },
    network::{self, Control},
    store::{SandboxRecord, Store, layout::Layout, networks::Places},
    supervisor::event::{ClientId, Outcome},
};

/// How long the guest may take. It takes milliseconds; the rest is for a host with far more guests
/// than processors.
const GUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What becomes of a membership.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Join(NetworkAttachment),
    /// The network's name or id.
    Leave(String),
}

/// A change that a task makes.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Dropped to have the task not wait for the guest any more.
    wait: oneshot::Sender<()>,
    /// Its sender is dropped when the task is over.
    over: oneshot::Receiver<()>,
}

impl UnderWay {
    /// Has the change end soon, and waits for that.
    pub(super) async fn end(self) {
        drop(self.wait);
        let _ = self.over.await;
    }
}

impl Switchboard {
    /// Begins to join or leave a network.
    pub(super) fn change_membership(&mut self, client: ClientId, change: Change) -> Result<()> {
        self.check_runs()?;
        let side = HostSide {
            control: self.network_control()?,
            layout: self.store.layout().clone(),
            record: self.entry.record.clone(),
        };
        let (wait, ended) = oneshot::channel();
        let (sender, over) = oneshot::channel::<()>();
        self.membership = Some(UnderWay { wait, over });
        self.begin(Some(client), Purpose::Readdress, |guest| async move {
            let made = side.make(&guest, change, ended).await;
            drop(sender);
            made.map(|()| Outcome {
                still: Duration::ZERO,
            })
        });
        Ok(())
    }
}

/// The host's part of a change.
#[derive(Clone)]
struct HostSide {
    control: Control,
    layout: Layout,
    record: SandboxRecord,
}

/// A change that was begun.
struct Begun {
    /// The network that is joined or left.
    network: NamedNetwork,
    /// The sandbox's networks before and after the change.
    before: Vec<NamedNetwork>,
    after: Vec<NamedNetwork>,
}

impl HostSide {
    async fn make(
        &self,
        guest: &Guest,
        change: Change,
        ended: oneshot::Receiver<()>,
    ) -> Result<()> {
        let is_join = matches!(change, Change::Join(_));
        let begun = self.blocking(move |side| match change {
            Change::Join(asked) => side.enter(&asked),
            Change::Leave(name) => side.about_to_leave(&name),
        });
        let begun = begun.await?;
        let (before, after) = (self.identity(&begun.before), self.identity(&begun.after));
        if let Err(error) = readdress(guest, after, ended).await {
            // Also for a guest that answers late: it works off its messages in order.
            take_back(guest, before);
            if is_join {
                let undone = self.blocking(move |side| side.undo(&begun.network));
                undone
                    .await
                    .unwrap_or_else(|error| log_line(&error.chain()));
            }
            return Err(error);
        }
        let finished = self.blocking(move |side| match is_join {
            true => side.look_at_flows(&begun),
            false => side.leave(&begun),
        });
        let finished = finished.await;
        if finished.is_err() && !is_join {
            take_back(guest, before);
        }
        finished
    }

    /// Does something that waits for files or the stack.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let side = self.clone();
        let done = spawn_blocking(move || work(&side)).await;
        done.unwrap_or_else(|error| {
            let what = "A change of the networks has panicked";
            Err(Error::new(ErrorKind::Bug, what).because(error))
        })
    }

    fn identity(&self, networks: &[NamedNetwork]) -> NetworkIdentity {
        let record = &self.record;
        let is_fork = record.forked_from.is_some();
        let spec = &record.spec.network;
        NetworkIdentity::new(&network::of_guest(record.id, spec, is_fork, networks))
    }

    /// Takes a place on a network and has the stack listen there.
    fn enter(&self, asked: &NetworkAttachment) -> Result<Begun> {
        let store = Store::open(self.layout.clone())?;
        let networks = store.networks();
        let before = networks.wired(&networks.of_sandbox(self.record.id)?)?;
        let network = networks.attach_new(&self.record, asked)?;
        let begun = networks.of_sandbox(self.record.id).and_then(|places| {
            let after = networks.wired(&places)?;
            let joined = after.iter().find(|each| each.name == network.name);
            let joined = joined.cloned().ok_or_else(|| {
                let what = format!("The network `{}` is gone", network.name);
                Error::new(ErrorKind::NotFound, what)
            })?;
            self.control.join(joined.clone())?;
            Ok(Begun {
                network: joined,
                before,
                after,
            })
        });
        begun.inspect_err(|_| self.forget(&store, &network.name))
    }

    /// Leaves a network that was entered.
    fn undo(&self, network: &NamedNetwork) -> Result<()> {
        let left = self.control.leave(&network.name);
        self.forget(&Store::open(self.layout.clone())?, &network.name);
        left
    }

    fn forget(&self, store: &Store, network: &str) {
        if let Err(error) = store.networks().forget(&self.record, network) {
            log_line(&error.chain());
        }
    }

    /// Ends flows that are not allowed on internal networks, if the sandbox is on no other now.
    fn look_at_flows(&self, begun: &Begun) -> Result<()> {
        match (is_internal(&begun.before), is_internal(&begun.after)) {
            (false, true) => self.control.reset_denied(),
            _ => Ok(()),
        }
    }

    fn about_to_leave(&self, network: &str) -> Result<Begun> {
        let store = Store::open(self.layout.clone())?;
        let networks = store.networks();
        let network = networks.expect_may_leave(&self.record, network)?;
        let places: Places = networks.of_sandbox(self.record.id)?;
        let before = networks.wired(&places)?;
        let (mut left, after): (Vec<_>, Vec<_>) = before
            .iter()
            .cloned()
            .partition(|each| each.name == network.name);
        let network = left.pop().ok_or_else(|| {
            let what = format!("The network `{}` is gone", network.name);
            Error::new(ErrorKind::NotFound, what)
        })?;
        Ok(Begun {
            network,
            before,
            after,
        })
    }

    /// Ends the stack's part, and then gives the place up.
    fn leave(&self, begun: &Begun) -> Result<()> {
        let store = Store::open(self.layout.clone())?;
        let network = &begun.network;
        self.control.leave(&network.name)?;
        if let Err(error) = store.networks().detach(&self.record, &network.name) {
            if let Err(second) = self.control.join(network.clone()) {
                log_line(&second.chain());
            }
            return Err(error);
        }
        self.look_at_flows(begun)
    }
}

fn is_internal(networks: &[NamedNetwork]) -> bool {
    !networks.is_empty() && networks.iter().all(|network| network.internal)
}

/// Has the guest take addresses, unless the sandbox has `ended` meanwhile.
async fn readdress(
    guest: &Guest,
    network: NetworkIdentity,
    ended: oneshot::Receiver<()>,
) -> Result<()> {
    let question = HostMessage::Readdress(network);
    tokio::select! {
        answer = guest.ask(&question, GUEST_TIMEOUT) => match answer? {
            AgentMessage::Readdressed => Ok(()),
            other => Err(unexpected(&other)),
        },
        // Only ever dropped.
        _ = ended => {
            let what = "The sandbox ended meanwhile";
            Err(Error::new(ErrorKind::WrongState, what))
        }
    }
}

/// Gives the guest its addresses back, and does not wait for it.
fn take_back(guest: &Guest, network: NetworkIdentity) {
    // A guest that cannot be asked is gone, and its addresses with it.
    let _ = guest.wire.ask(&HostMessage::Readdress(network));
}
