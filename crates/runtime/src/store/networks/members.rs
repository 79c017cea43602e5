//! The members of networks: numbers, names, and when they are given and taken.

use std::{collections::BTreeSet, net::Ipv4Addr};

use cofferdam_base::{LockFile, fs};
use cofferdam_types::{NetworkAttachment, NetworkMode, SandboxId};
use serde::{Deserialize, Serialize};

use super::{NetworkRecord, Networks, aliases::check_aliases, unreadable};
use crate::{
    base::error::{Error, ErrorKind, Result, io},
    store::{Entry, SandboxRecord},
};

/// Largest `members.json`, in bytes: some thousand members. Each stack of the network reads it.
pub(super) const MAX_MEMBERS_BYTES: u64 = 1 << 20;

/// Networks of one sandbox; the stack has as many.
const MAX_OF_SANDBOX: usize = 16;

/// Removed sandboxes whose numbers are known.
const MAX_REMOVED: usize = 256;

/// A sandbox on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its name.
    pub name: String,
    /// More names by which others find it.
    pub aliases: Vec<String>,
    /// Its place in the subnets.
    pub number: u32,
}

/// `members.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Members {
    pub(super) members: Vec<MemberRecord>,
    /// Sandboxes that were made with the network and disconnected since.
    pub(super) left: Vec<SandboxId>,
    /// Sandboxes that were removed, with their numbers, the latest last: one that is restored gets
    /// its number again if nobody has it.
    #[serde(default)]
    removed: Vec<(SandboxId, u32)>,
}

impl Networks<'_> {
    pub(super) fn load(&self, network: &str) -> Result<Members> {
        let path = self.members_path(network);
        match fs::read_json(&path, MAX_MEMBERS_BYTES) {
            Ok(members) => Ok(members),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Members::default()),
            Err(error) => Err(unreadable(&path, error)),
        }
    }

    pub(crate) fn members_path(&self, network: &str) -> std::path::PathBuf {
        self.dir().join(network).join("members.json")
    }

    /// Replaces the members, without those that are gone. The caller holds the lock.
    pub(super) fn save(&self, network: &str, mut members: Members) -> Result<()> {
        self.purge(&mut members);
        let path = self.members_path(network);
        let bytes = serde_json::to_vec_pretty(&members).map_or(usize::MAX, |text| text.len() + 1);
        if u64::try_from(bytes).unwrap_or(u64::MAX) > MAX_MEMBERS_BYTES {
            let what = format!("The network `{network}` has no room for more members");
            return Err(Error::new(ErrorKind::InUse, what)
                .hint("Remove sandboxes of it, or give them fewer and shorter aliases"));
        }
        fs::publish_json(&path, &members, false)
            .map_err(|error| io(format!("Could not write `{}`", path.display()), error))
    }

    fn purge(&self, members: &mut Members) {
        let is_there = |id: SandboxId| self.store.layout().sandbox(id).dir.exists();
        let gone = members
            .members
            .extract_if(.., |member| !is_there(member.sandbox));
        members
            .removed
            .extend(gone.map(|member| (member.sandbox, member.number)));
        let more = members.removed.len().saturating_sub(MAX_REMOVED);
        members.removed.drain(..more);
        members.left.retain(|id| is_there(*id));
    }

    /// The members of a network whose sandboxes exist, by number.
    ///
    /// # Errors
    /// That of the file.
    pub fn members_of(&self, network: &str) -> Result<Vec<MemberRecord>> {
        let mut members = self.load(network)?;
        self.purge(&mut members);
        members.members.sort_by_key(|member| member.number);
        Ok(members.members)
    }

    /// The networks of which a sandbox is a member, by name.
    ///
    /// # Errors
    /// Those of the files.
    pub fn of_sandbox(&self, id: SandboxId) -> Result<Vec<(NetworkRecord, MemberRecord)>> {
        let mut all = Vec::new();
        for name in self.names()? {
            let mut members = self.load(&name)?.members.into_iter();
            // A network that cannot be read stops its own members only.
            if let Some(own) = members.find(|member| member.sandbox == id)
                && let Some(network) = self.read(&name)?
            {
                all.push((network, own));
            }
        }
        Ok(all)
    }

    /// Makes a sandbox a member of a network, or changes its aliases and its address there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a network; [`ErrorKind::InvalidSpec`] for an address or
    /// an alias that cannot be, or for one network too many; [`ErrorKind::InUse`] when the address
    /// is taken or none is free; the file system's.
    pub(crate) fn attach(
        &self,
        record: &SandboxRecord,
        asked: &NetworkAttachment,
    ) -> Result<(NetworkRecord, MemberRecord)> {
        check_aliases(asked)?;
        let _lock = self.lock()?;
        let network = self.find(&asked.network)?;
        let is_other = |(other, _): &(NetworkRecord, _)| other.id != network.id;
        let others = self.of_sandbox(record.id)?.into_iter().filter(is_other);
        if others.count() >= MAX_OF_SANDBOX {
            let what = format!("A sandbox has at most {MAX_OF_SANDBOX} named networks");
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        let mut members = self.load(&network.name)?;
        self.purge(&mut members);
        members.left.retain(|id| *id != record.id);
        members.members.retain(|member| member.sandbox != record.id);
        let number = number(&network, &members, record.id, asked.address)?;
        members.removed.retain(|(id, _)| *id != record.id);
        let member = MemberRecord {
            sandbox: record.id,
            name: record.name.clone(),
            aliases: asked.aliases.clone(),
            number,
        };
        members.members.push(member.clone());
        self.save(&network.name, members)?;
        Ok((network, member))
    }

    /// Ends a sandbox's membership.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without such a network or member; [`ErrorKind::WrongState`] when it
    /// is the only one and internal; the file system's.
    pub(crate) fn detach(&self, record: &SandboxRecord, network: &str) -> Result<NetworkRecord> {
        let _lock = self.lock()?;
        let network = self.expect_may_leave(record, network)?;
        let mut members = self.load(&network.name)?;
        members.members.retain(|member| member.sandbox != record.id);
        members.left.push(record.id);
        self.save(&network.name, members)?;
        Ok(network)
    }

    /// The network `network`, of which a sandbox is a member and may be none.
    ///
    /// # Errors
    /// As for [`Self::detach`].
    pub(crate) fn expect_may_leave(
        &self,
        record: &SandboxRecord,
        network: &str,
    ) -> Result<NetworkRecord> {
        let network = self.find(network)?;
        let mut members = self.load(&network.name)?.members.into_iter();
        if !members.any(|member| member.sandbox == record.id) {
            let what = format!(
                "The sandbox `{}` is not in the network `{}`",
                record.name, network.name
            );
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        if !self.only_here(&network, &[record.id])?.is_empty() {
            let what = format!(
                "The network `{}` is the only one of `{}`, and it is internal",
                network.name, record.name
            );
            return Err(Error::new(ErrorKind::WrongState, what).hint(
                "Without it the sandbox would reach other networks. Connect it to another first",
            ));
        }
        Ok(network)
    }

    /// Makes a stopped sandbox a member of a network, or changes its aliases and address there.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] while it is live, used by another command or without an interface;
    /// as for a new sandbox's networks.
    pub(crate) fn connect(&self, entry: &Entry, asked: &NetworkAttachment) -> Result<()> {
        let (_lock, entry) = self.hold_stopped(entry)?;
        if entry.record.spec.network.mode == NetworkMode::None {
            let what = format!(
                "The sandbox `{}` has no network interface",
                entry.record.name
            );
            return Err(Error::new(ErrorKind::WrongState, what)
                .hint("Make it without `--network none`, so that it has one"));
        }
        self.attach(&entry.record, asked).map(drop)
    }

    /// Ends a stopped sandbox's membership of a network.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] while it is live or used by another command, and when the network
    /// is the only one of the sandbox and internal: it would reach other networks without it;
    /// [`ErrorKind::NotFound`].
    pub(crate) fn disconnect(&self, entry: &Entry, network: &str) -> Result<()> {
        let (_lock, entry) = self.hold_stopped(entry)?;
        self.detach(&entry.record, network).map(drop)
    }

    /// Takes a stopped sandbox, so that no start comes between.
    fn hold_stopped(&self, entry: &Entry) -> Result<(LockFile, Entry)> {
        expect_stopped(entry)?;
        let (id, name) = (entry.record.id, &entry.record.name);
        let Some(lock) = self.store.try_lock_existing(id)? else {
            let what = format!("Sandbox `{name}` is being used by another command");
            return Err(Error::new(ErrorKind::WrongState, what));
        };
        let gone = || Error::new(ErrorKind::NotFound, format!("There is no sandbox `{name}`"));
        let lock = lock.ok_or_else(gone)?;
        // With the lock held the state cannot change.
        let entry = self.store.load(id)?.ok_or_else(gone)?;
        expect_stopped(&entry)?;
        Ok((lock, entry))
    }

    /// Those of `sandboxes` that are on no other network than `network`, if it is internal. Without
    /// it they would start with the reach of a sandbox that is on none.
    pub(super) fn only_here(
        &self,
        network: &NetworkRecord,
        sandboxes: &[SandboxId],
    ) -> Result<Vec<SandboxId>> {
        let mut only = match network.internal {
            true => sandboxes.to_vec(),
            false => Vec::new(),
        };
        for name in self.names()? {
            if only.is_empty() {
                break;
            }
            if name != network.name {
                let elsewhere = self.load(&name)?.members;
                let elsewhere: BTreeSet<SandboxId> =
                    elsewhere.iter().map(|member| member.sandbox).collect();
                only.retain(|id| !elsewhere.contains(id));
            }
        }
        Ok(only)
    }

    /// The places of a sandbox that starts: those that it has, and new ones on the networks that
    /// its spec names and that it has not left. A place that it has is kept.
    ///
    /// # Errors
    /// As for [`Self::attach`].
    pub(crate) fn places(
        &self,
        record: &SandboxRecord,
    ) -> Result<Vec<(NetworkRecord, MemberRecord)>> {
        let asked = &record.spec.network.networks;
        let has = if asked.is_empty() && !self.dir().exists() {
            Vec::new()
        } else {
            self.of_sandbox(record.id)?
        };
        for asked in asked {
            let network = self.find(&asked.network)?;
            let known = has.iter().find(|(has, _)| has.id == network.id);
            let is_named = known.is_some_and(|(_, member)| member.name == record.name);
            if is_named || self.load(&network.name)?.left.contains(&record.id) {
                continue;
            }
            // A restore may have given it another name.
            let address = known.map(|(network, member)| network.subnet.address(member.number));
            let asked = NetworkAttachment {
                address: asked.address.or(address),
                ..asked.clone()
            };
            self.attach(record, &asked)?;
        }
        if has.is_empty() && asked.is_empty() {
            return Ok(has);
        }
        // A network is removed before this or not at all: the sandbox is live by now.
        let _lock = self.lock()?;
        self.of_sandbox(record.id)
    }

    /// Where a fork of a sandbox is a member: where its parent is now, without aliases and
    /// addresses. Where the parent is not there, where its spec says. The caller has checked that
    /// the sandbox that has its id is the parent.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn for_fork(
        &self,
        parent: &SandboxRecord,
        is_there: bool,
    ) -> Result<Vec<NetworkAttachment>> {
        let spec = parent.spec.network.networks.iter();
        let names: Vec<String> = match is_there {
            true => {
                let all = self.of_sandbox(parent.id)?.into_iter();
                all.map(|(network, _)| network.name).collect()
            }
            false => spec.map(|asked| asked.network.clone()).collect(),
        };
        Ok(names.into_iter().map(NetworkAttachment::new).collect())
    }
}

/// A sandbox that has been started since somebody looked is changed by its supervisor.
fn expect_stopped(entry: &Entry) -> Result<()> {
    if !entry.state.status.is_live() {
        return Ok(());
    }
    let what = format!("The sandbox `{}` has been started", entry.record.name);
    Err(Error::new(ErrorKind::WrongState, what).hint("Try it again"))
}

/// A free number, the one that the sandbox `id` had if it can be, or that of the asked address.
fn number(
    network: &NetworkRecord,
    members: &Members,
    id: SandboxId,
    asked: Option<Ipv4Addr>,
) -> Result<u32> {
    let (name, subnet) = (&network.name, network.subnet);
    let holder = |number: u32| {
        members
            .members
            .iter()
            .find(|member| member.number == number)
    };
    let Some(asked) = asked else {
        let taken: BTreeSet<u32> = members.members.iter().map(|member| member.number).collect();
        let had = members.removed.iter().rev().filter(|(had, _)| *had == id);
        let had = had.map(|(_, number)| *number);
        let mut all = had.chain(subnet.numbers());
        let free = all.find(|number| !taken.contains(number));
        return free.ok_or_else(|| {
            let what = format!("The network `{name}` has no free address in `{subnet}`");
            Error::new(ErrorKind::InUse, what)
                .hint("Remove sandboxes of it, or make a network with a larger subnet")
        });
    };
    let Some(number) = subnet.number_of(asked) else {
        let what = format!("The address `{asked}` is not one for members of `{subnet}`");
        let first = subnet.address(subnet.numbers().start);
        let last = subnet.address(subnet.numbers().end - 1);
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint(format!("Choose one from {first} to {last}")));
    };
    match holder(number) {
        Some(holder) => {
            let what = format!("The address `{asked}` is taken by `{}`", holder.name);
            Err(Error::new(ErrorKind::InUse, what).hint("Choose another, or none"))
        }
        None => Ok(number),
    }
}
