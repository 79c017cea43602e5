//! The places of a sandbox that runs, as its stack has them, and their changes.
//!
//! Only the supervisor of a live sandbox changes its places, one change after the other.

use std::sync::Arc;

use cofferdam_base::fs;
use cofferdam_net::NamedNetwork;
use cofferdam_types::NetworkAttachment;

use super::{MemberRecord, NetworkRecord, Networks, directory::MembersFile};
use crate::{
    base::error::{Error, ErrorKind, Result, io},
    store::SandboxRecord,
};

/// A sandbox's places on networks, by their names.
pub(crate) type Places = Vec<(NetworkRecord, MemberRecord)>;

impl Networks<'_> {
    /// The places as a stack has them, with the directories of their sockets.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn wired(&self, places: &Places) -> Result<Vec<NamedNetwork>> {
        let named = |(network, member): &(NetworkRecord, MemberRecord)| {
            let sockets = self.store.layout().network_sockets(&network.id);
            fs::create_private_dir(&sockets)
                .map_err(|error| io(format!("Could not make `{}`", sockets.display()), error))?;
            Ok(NamedNetwork {
                v4: (network.subnet.first(), network.subnet.bits()),
                v6: network.subnet_v6,
                number: member.number,
                internal: network.internal,
                directory: Arc::new(MembersFile::new(self.members_path(&network.name))),
                sockets,
                name: network.name.clone(),
            })
        };
        places.iter().map(named).collect()
    }

    /// Makes a live sandbox a member of a network on which it is not yet.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is a member; as for [`Self::attach`].
    pub(crate) fn attach_new(
        &self,
        record: &SandboxRecord,
        asked: &NetworkAttachment,
    ) -> Result<NetworkRecord> {
        let network = self.find(&asked.network)?;
        let places = self.of_sandbox(record.id)?;
        if places.iter().any(|(other, _)| other.id == network.id) {
            let what = format!(
                "The sandbox `{}` is on the network `{}` already",
                record.name, network.name
            );
            return Err(Error::new(ErrorKind::WrongState, what)
                .hint("To change its aliases or its address there, disconnect it first"));
        }
        self.attach(record, asked).map(|(network, _)| network)
    }

    /// Takes back what [`Self::attach_new`] has done.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn forget(&self, record: &SandboxRecord, network: &str) -> Result<()> {
        let _lock = self.lock()?;
        let mut members = self.load(network)?;
        members.members.retain(|member| member.sandbox != record.id);
        members.left.push(record.id);
        self.save(network, members)
    }
}
