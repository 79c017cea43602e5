//! Named networks.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use cofferdam_runtime::{MemberRecord, NetworkOptions, NetworkRecord, Result, rfc3339};
use cofferdam_types::{NetworkAttachment, SandboxId};
use serde::Serialize;

use crate::{Coffer, Sandbox};

/// The named networks of a store.
#[derive(Clone, Copy, Debug)]
pub struct Networks<'a> {
    coffer: &'a Coffer,
}

/// A named network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetworkInfo {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// The IPv4 subnet, such as `198.19.0.0/24`.
    pub subnet: String,
    /// The IPv6 subnet.
    pub subnet_v6: String,
    /// Whether its members reach nothing else by it.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Nanoseconds since the Unix epoch of `created`.
    pub created_ns: u64,
    /// The sandboxes on it, running or not, by address.
    pub members: Vec<NetworkMember>,
}

/// A sandbox on a named network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NetworkMember {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its name.
    pub name: String,
    /// Names by which other members find it, besides its name and the start of its id.
    pub aliases: Vec<String>,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address_v6: Ipv6Addr,
    /// Whether it is live.
    pub running: bool,
}

/// A sandbox's place on a named network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SandboxNetwork {
    /// The network's name.
    pub network: String,
    /// Whether the network's members reach nothing else by it.
    pub internal: bool,
    /// The sandbox there.
    #[serde(flatten)]
    pub member: NetworkMember,
}

impl<'a> Networks<'a> {
    pub(crate) const fn new(coffer: &'a Coffer) -> Self {
        Self { coffer }
    }

    fn of_runtime(&self) -> cofferdam_runtime::Networks<'a> {
        self.coffer.runtime.networks()
    }

    /// Makes a network.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NameTaken`]; [`crate::ErrorKind::InvalidSpec`] for a name or a subnet
    /// that cannot be, or one that overlaps another.
    pub fn create(&self, options: &NetworkOptions) -> Result<NetworkInfo> {
        let record = self.of_runtime().create(options)?;
        self.info(record)
    }

    /// Every network, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<NetworkInfo>> {
        let all = self.of_runtime().list()?.into_iter();
        all.map(|record| self.info(record)).collect()
    }

    /// The network of a name, an id, or the unique start of an id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Ambiguous`].
    pub fn inspect(&self, name: &str) -> Result<NetworkInfo> {
        let record = self.of_runtime().find(name)?;
        self.info(record)
    }

    /// Removes a network. Sandboxes that are stopped lose their places on it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InUse`] while a member runs, and where the network is internal and the
    /// only one of a member; [`crate::ErrorKind::NotFound`].
    pub fn remove(&self, name: &str) -> Result<()> {
        self.of_runtime().remove(name).map(drop)
    }

    /// Removes a network that no sandbox is on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InUse`] when it has a member; [`crate::ErrorKind::NotFound`].
    pub fn remove_unused(&self, name: &str) -> Result<()> {
        self.of_runtime().remove_unused(name).map(drop)
    }

    /// Makes a sandbox a member of a network. A live one has its address and its names there at
    /// once, and keeps all else. Of a stopped one that is a member it changes the aliases and the
    /// address.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] when it is paused or has no interface, and when it is live
    /// and a member; [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::InvalidSpec`],
    /// [`crate::ErrorKind::InUse`] for an address that is taken. Nothing has changed then.
    ///
    /// # Cancel safety
    /// A live sandbox makes the change also when the future is dropped.
    pub async fn connect(&self, sandbox: &Sandbox, asked: &NetworkAttachment) -> Result<()> {
        let entry = sandbox.now()?;
        self.coffer.runtime.join_network(&entry, asked).await
    }

    /// Ends a sandbox's membership of a network. In a live one its address there goes, and its TCP
    /// connections with members end with a reset.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] when it is paused, and when the network is internal and the
    /// only one of the sandbox; [`crate::ErrorKind::NotFound`]. Nothing has changed then.
    ///
    /// # Cancel safety
    /// As for [`Self::connect`].
    pub async fn disconnect(&self, sandbox: &Sandbox, network: &str) -> Result<()> {
        let entry = sandbox.now()?;
        self.coffer.runtime.leave_network(&entry, network).await
    }

    /// The places of a sandbox on networks, by their names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn of_sandbox(&self, id: SandboxId) -> Result<Vec<SandboxNetwork>> {
        let places = self.of_runtime().of_sandbox(id)?.into_iter();
        let place = |(network, member): (NetworkRecord, MemberRecord)| SandboxNetwork {
            member: self.member(&network, member),
            internal: network.internal,
            network: network.name,
        };
        Ok(places.map(place).collect())
    }

    fn info(&self, record: NetworkRecord) -> Result<NetworkInfo> {
        let members = self.of_runtime().members_of(&record.name)?.into_iter();
        Ok(NetworkInfo {
            members: members.map(|each| self.member(&record, each)).collect(),
            id: record.id,
            name: record.name,
            subnet: record.subnet.to_string(),
            subnet_v6: format!("{}/64", record.subnet_v6),
            internal: record.internal,
            labels: record.labels,
            created: rfc3339(record.created_ns),
            created_ns: record.created_ns,
        })
    }

    fn member(&self, network: &NetworkRecord, member: MemberRecord) -> NetworkMember {
        let entry = self.coffer.runtime.store().load(member.sandbox);
        let entry = entry.ok().flatten();
        NetworkMember {
            address: network.subnet.address(member.number),
            address_v6: network.address_v6(member.number),
            running: entry.is_some_and(|entry| entry.state.status.is_live()),
            sandbox: member.sandbox,
            name: member.name,
            aliases: member.aliases,
        }
    }
}
