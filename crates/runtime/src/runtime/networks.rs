//! Networks: those of sandboxes, and named ones.

use cofferdam_proto::{NetworkChange, NetworkStatus};
use cofferdam_types::NetworkAttachment;

use super::Runtime;
use crate::{
    base::error::Result,
    store::{Entry, networks::Networks},
};

impl Runtime {
    /// The named networks.
    #[must_use]
    pub const fn networks(&self) -> Networks<'_> {
        self.store.networks()
    }

    /// Changes the network of a sandbox; returns how it is then, if it is live. One that is not live
    /// has the change at its next start. Fails with `InvalidSpec`, `NotFound`, and those of a port.
    pub async fn change_network(
        &self,
        entry: &Entry,
        change: NetworkChange,
    ) -> Result<Option<NetworkStatus>> {
        self.sandboxes().change_network(entry, change).await
    }

    /// Makes a sandbox a member of a named network, live or not. Of a stopped one that is a member
    /// it changes the aliases and the address there. Fails with `WrongState` when it is paused or
    /// has no interface, and when it is live and a member; `NotFound`; `InvalidSpec`; `InUse` for
    /// an address that is taken.
    pub async fn join_network(&self, entry: &Entry, asked: &NetworkAttachment) -> Result<()> {
        self.sandboxes().join_network(entry, asked).await
    }

    /// Ends a sandbox's membership of a named network, live or not. Fails with `WrongState` when it
    /// is paused, and when the network is its only one and internal: it would reach other networks
    /// without it; `NotFound`.
    pub async fn leave_network(&self, entry: &Entry, network: &str) -> Result<()> {
        self.sandboxes().leave_network(entry, network).await
    }

    /// What is to be seen of the network of a live sandbox. Fails with `WrongState` when it is not
    /// live, `InvalidSpec` when it has no network.
    pub async fn network(&self, entry: &Entry) -> Result<NetworkStatus> {
        self.sandboxes().network(entry).await
    }
}
