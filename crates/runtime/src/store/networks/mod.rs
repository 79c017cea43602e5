//! Named networks: subnets that do not overlap, and the addresses of their members.
//!
//! ```text
//! networks/.lock             held for each change of any network
//! networks/<name>/           appears whole, by a rename
//!   network.json             what was asked and chosen; never changes
//!   members.json             who has which number; replaced whole
//! ```
//!
//! A member's number is its place in both subnets. A sandbox keeps it while it exists, also while it
//! is stopped. The entries of removed sandboxes go with the next change. Readers take no lock: each
//! file is replaced by a rename.

mod aliases;
mod directory;
mod live;
mod members;
mod subnet;

use std::{
    collections::BTreeMap,
    fs as std_fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use cofferdam_base::{LockFile, fs, time::unix_time_ns};
use cofferdam_types::{SandboxId, valid_name};
use serde::{Deserialize, Serialize};

pub(crate) use self::{aliases::check_aliases, live::Places};
pub use self::{members::MemberRecord, subnet::Subnet};
use self::{
    members::{MAX_MEMBERS_BYTES, Members},
    subnet::RESERVED,
};
use super::Store;
use crate::base::{
    error::{Error, ErrorKind, Result, io},
    random,
};

/// The version of `network.json`.
const FORMAT_VERSION: u32 = 1;

/// Largest `network.json`, in bytes.
const MAX_NETWORK_BYTES: u64 = 1 << 20;

/// Most networks of a store: as many as have a subnet by default.
const MAX_NETWORKS: usize = 256;

/// Names that mean something else.
const RESERVED_NAMES: [&str; 4] = ["none", "default", "bridge", "host"];

/// What is asked of a new network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Its name.
    pub name: String,
    /// The IPv4 subnet; the first free one below 198.19.0.0/16 when absent.
    pub subnet: Option<Subnet>,
    /// Whether its members reach nothing else by it.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A named network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The version of this form.
    pub version: u32,
    /// A random number: 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The IPv4 subnet.
    pub subnet: Subnet,
    /// The first address of the IPv6 subnet, whose prefix has 64 bits.
    pub subnet_v6: Ipv6Addr,
    /// Whether its members reach nothing else by it.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, in nanoseconds of Unix time.
    pub created_ns: u64,
}

impl NetworkRecord {
    /// The IPv6 address of a member's number.
    #[must_use]
    pub fn address_v6(&self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.subnet_v6.to_bits().wrapping_add(number.into()))
    }
}

/// The networks of a store.
#[derive(Clone, Copy, Debug)]
pub struct Networks<'a> {
    store: &'a Store,
}

impl Store {
    /// The named networks.
    #[must_use]
    pub const fn networks(&self) -> Networks<'_> {
        Networks { store: self }
    }
}

impl Networks<'_> {
    fn dir(&self) -> PathBuf {
        self.store.layout().networks()
    }

    fn lock(&self) -> Result<LockFile> {
        let dir = self.dir();
        let failed = |error| io(format!("Could not lock `{}`", dir.display()), error);
        fs::create_private_dir(&dir).map_err(failed)?;
        LockFile::exclusive(&dir.join(".lock")).map_err(failed)
    }

    /// Makes a network.
    ///
    /// # Errors
    /// [`ErrorKind::NameTaken`]; [`ErrorKind::InvalidSpec`] for a name or a subnet that cannot be,
    /// or one that overlaps another; the file system's.
    pub fn create(&self, options: &NetworkOptions) -> Result<NetworkRecord> {
        let name = &options.name;
        check_name(name)?;
        let _lock = self.lock()?;
        let others = self.all()?;
        let target = self.dir().join(name);
        if target.exists() {
            let what = format!("The name `{name}` is taken by another network");
            return Err(Error::new(ErrorKind::NameTaken, what).hint(format!(
                "Choose another name, or remove that one with `coffer network rm {name}`"
            )));
        }
        if others.len() >= MAX_NETWORKS {
            let what = format!("A store has at most {MAX_NETWORKS} networks");
            return Err(Error::new(ErrorKind::InvalidSpec, what)
                .hint("Remove those that nobody uses with `coffer network prune`"));
        }
        let (subnet, subnet_v6) = choose(options.subnet, &others)?;
        let record = NetworkRecord {
            version: FORMAT_VERSION,
            id: SandboxId::from_random(random::bytes()?).to_string(),
            name: name.clone(),
            subnet,
            subnet_v6,
            internal: options.internal,
            labels: options.labels.clone(),
            created_ns: unix_time_ns(),
        };
        let staging = fs::staging_path(&target);
        let failed = |error| io(format!("Could not make the network `{name}`"), error);
        fs::create_private_dir(&staging).map_err(failed)?;
        fs::publish_json(&staging.join("network.json"), &record, true)
            .and_then(|()| std_fs::rename(&staging, &target))
            .map_err(|error| {
                let _ = fs::remove_dir_if_present(&staging);
                failed(error)
            })?;
        Ok(record)
    }

    /// Every network that can be read, by name.
    ///
    /// # Errors
    /// That of their directory.
    pub fn list(&self) -> Result<Vec<NetworkRecord>> {
        let names = self.names()?.into_iter();
        Ok(names
            .filter_map(|name| self.read(&name).ok().flatten())
            .collect())
    }

    /// Every network, by name, also where one that cannot be read is an error.
    fn all(&self) -> Result<Vec<NetworkRecord>> {
        let names = self.names()?.into_iter();
        names
            .filter_map(|name| self.read(&name).transpose())
            .collect()
    }

    /// The names of networks, in order.
    fn names(&self) -> Result<Vec<String>> {
        let dir = self.dir();
        let failed = |error| io(format!("Could not read `{}`", dir.display()), error);
        let entries = match std_fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string().ok().filter(|name| valid_name(name)));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Option<NetworkRecord>> {
        let path = self.dir().join(name).join("network.json");
        let record: NetworkRecord = match fs::read_json(&path, MAX_NETWORK_BYTES) {
            Ok(record) => record,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, error)),
        };
        if record.version != FORMAT_VERSION {
            let what = format!("The network `{name}` was made by another version of Cofferdam");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Ok(Some(record))
    }

    /// The network of a name, an id, or the unique start of an id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`], or that of its file.
    pub fn find(&self, name: &str) -> Result<NetworkRecord> {
        if valid_name(name)
            && let Some(record) = self.read(name)?
        {
            return Ok(record);
        }
        let all = self.list()?.into_iter();
        let mut found = all.filter(|record| !name.is_empty() && record.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(record),
            (Some(_), Some(_)) => {
                let what = format!("More than one network has an id that starts with `{name}`");
                Err(Error::new(ErrorKind::Ambiguous, what).hint("Give more digits"))
            }
            (None, _) => {
                let what = format!("There is no network `{name}`");
                Err(Error::new(ErrorKind::NotFound, what).hint(
                    "List them with `coffer network ls`, or make one with `coffer network create`",
                ))
            }
        }
    }

    /// Removes a network. Sandboxes that are stopped lose their places on it.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] while a member runs, and where the network is internal and the only one
    /// of a member; as for [`Self::find`]; the file system's.
    pub fn remove(&self, name: &str) -> Result<NetworkRecord> {
        let _lock = self.lock()?;
        let record = self.find(name)?;
        self.expect_dispensable(&record)?;
        self.discard(record)
    }

    /// Removes a network that no sandbox is on.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] when it has a member; as for [`Self::find`]; the file system's.
    pub fn remove_unused(&self, name: &str) -> Result<NetworkRecord> {
        let _lock = self.lock()?;
        let record = self.find(name)?;
        if let Some(member) = self.members_of(&record.name)?.first() {
            let what = format!("`{}` is on the network `{}`", member.name, record.name);
            return Err(Error::new(ErrorKind::InUse, what));
        }
        self.discard(record)
    }

    fn expect_dispensable(&self, record: &NetworkRecord) -> Result<()> {
        let members = self.members_of(&record.name)?;
        for member in &members {
            let entry = self.store.load(member.sandbox)?;
            if entry.is_some_and(|entry| entry.state.status.is_live()) {
                let what = format!(
                    "The network `{}` has a member that runs: `{}`",
                    record.name, member.name
                );
                return Err(Error::new(ErrorKind::InUse, what).hint(
                    "Stop its members, or disconnect them with `coffer network disconnect`",
                ));
            }
        }
        let ids: Vec<SandboxId> = members.iter().map(|member| member.sandbox).collect();
        let only = self.only_here(record, &ids)?;
        match members.iter().find(|member| only.contains(&member.sandbox)) {
            None => Ok(()),
            Some(member) => {
                let what = format!(
                    "The network `{}` is internal, and the only one of `{}`",
                    record.name, member.name
                );
                Err(Error::new(ErrorKind::InUse, what).hint(
                    "Without it the sandbox would reach other networks. Remove the sandbox, or \
                     connect it to another network",
                ))
            }
        }
    }

    /// Removes the files. The caller holds the lock.
    fn discard(&self, record: NetworkRecord) -> Result<NetworkRecord> {
        let name = &record.name;
        let dir = self.dir().join(&record.name);
        let doomed = fs::staging_path(&dir);
        std_fs::rename(&dir, &doomed)
            .map_err(|error| io(format!("Could not remove the network `{name}`"), error))?;
        // What is left are files that nobody reads.
        let _ = fs::remove_dir_if_present(&doomed);
        let _ = fs::remove_dir_if_present(&self.store.layout().network_sockets(&record.id));
        Ok(record)
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let hint = path.parent().map(|dir| {
        let dir = dir.display();
        format!("If its content is lost, remove `{dir}` with all sandboxes of the network")
    });
    let error = io(format!("Could not read `{}`", path.display()), error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn check_name(name: &str) -> Result<()> {
    if RESERVED_NAMES.contains(&name) {
        let what = format!("`{name}` cannot name a network: it means something else");
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    if !valid_name(name) {
        let what = format!("`{name}` is not a network name");
        return Err(Error::new(ErrorKind::InvalidSpec, what).hint(
            "Use letters, digits, `_`, `.` and `-`; start with a letter or digit; at most 63",
        ));
    }
    Ok(())
}

/// The subnets of a new network beside `others`.
fn choose(asked: Option<Subnet>, others: &[NetworkRecord]) -> Result<(Subnet, Ipv6Addr)> {
    let clash = |subnet: &Subnet| others.iter().find(|other| other.subnet.overlaps(subnet));
    let subnet = match asked {
        Some(asked) => {
            if let Some(reserved) = RESERVED.iter().find(|(net, _)| net.overlaps(&asked)) {
                let what = format!(
                    "The subnet `{asked}` overlaps `{}`, {}",
                    reserved.0, reserved.1
                );
                return Err(Error::new(ErrorKind::InvalidSpec, what)
                    .hint("Choose a private subnet such as `10.77.0.0/24`"));
            }
            if let Some(other) = clash(&asked) {
                let what = format!(
                    "The subnet `{asked}` overlaps `{}` of the network `{}`",
                    other.subnet, other.name
                );
                return Err(Error::new(ErrorKind::InvalidSpec, what)
                    .hint("Choose another subnet, or leave it out"));
            }
            asked
        }
        None => Subnet::defaults()
            .find(|subnet| clash(subnet).is_none())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidSpec,
                    "No subnet is free below 198.19.0.0/16",
                )
                .hint("Choose one with `--subnet`")
            })?,
    };
    let is_free = |v6: &Ipv6Addr| others.iter().all(|other| other.subnet_v6 != *v6);
    let v6 = Subnet::defaults_v6().find(is_free);
    let v6 = v6.ok_or_else(|| Error::new(ErrorKind::InvalidSpec, "No IPv6 subnet is free"))?;
    Ok((subnet, v6))
}

#[cfg(test)]
mod tests;
