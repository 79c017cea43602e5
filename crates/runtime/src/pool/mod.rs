//! Pools: standby machines of an image, resumed and warm, that `run` claims.
//!
//! ```text
//! pools/<name>/pool.json        what the standbys are for, and how many there are to be
//! pools/<name>/replaced         made when a lost standby was last replaced at once
//! pools/<name>/standby.log      what supervisors of standbys printed
//! pools/<name>/<id>/            one standby: lock, pid, upper.ext4, logs, and standby.json once ready
//! run/<short id>/standby.sock   where a ready standby waits for the one client that claims it
//! ```
//! A standby is a supervisor that has brought a machine up to the point before the workload, and
//! waits. Whoever starts a sandbox of the same shape and image connects to it; the standby takes
//! that sandbox over as if it had been started for it, and orders a new standby later. One that
//! does not answer in time is given up and replaced ([`handover`]). There is
//! no daemon: a pool that lost its standbys, to a reboot say, is filled again by the next start
//! that would have claimed one, or the next who lists it.

mod after;
mod automatic;
mod catalogue;
mod claim;
mod fill;
mod handover;
mod prepare;
mod standby;

use std::path::{Path, PathBuf};

use cofferdam_backend::Backend;
use cofferdam_base::{LockFile, fs};
use cofferdam_proto::ProcessSpec;
use cofferdam_types::{Digest, SandboxId, valid_name};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    after::ForLaterStarts,
    catalogue::Pools,
    claim::{Claim, claim},
    fill::fill_main,
    standby::standby_main,
};
use self::{automatic::is_automatic, fill::spawn_fill};
#[cfg(test)]
pub(crate) use self::{automatic::keep_one, fill::fill, standby::stand_by_for};
use crate::{
    base::error::{Error, ErrorKind, Result, io, lift},
    host::guest::GuestFiles,
    store::layout::Layout,
    template::{self, TemplatePlan},
};

/// Version of the files' form.
const FORMAT_VERSION: u32 = 1;

/// Most standbys of a pool: each holds memory for nothing until it is claimed.
pub(crate) const MAX_SIZE: u32 = 64;

/// A manifest holds one image's names and a few command lines.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// What a ready standby says of itself, in its directory.
const READY: &str = "standby.json";

/// What a pool's standbys are for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolManifest {
    format: u32,
    name: String,
    size: u32,
    created_ns: u64,
    backend: String,
    kernel: Option<String>,
    /// Digest of its image's configuration; none if that was not written down.
    #[serde(default)]
    image: Option<Digest>,
    plan: TemplatePlan,
    /// Processes that each standby runs to their end before it waits.
    warm_ups: Vec<ProcessSpec>,
    /// Of an automatic pool: how long its standby waits, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends_after_s: Option<u64>,
}

/// A pool as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolInfo {
    /// Its name.
    pub name: String,
    /// The image, as it was asked for.
    pub image: String,
    /// How many standbys there are to be.
    pub size: u32,
    /// How many wait to be claimed.
    pub ready: u32,
    /// Processors of each.
    pub vcpus: u8,
    /// Memory of each in bytes.
    pub memory_bytes: u64,
    /// Command lines that each has run.
    pub commands: Vec<String>,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
}

/// What a pool is to be.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Its name; the image's by default.
    pub name: Option<String>,
    /// How many standbys.
    pub size: u32,
    /// Command lines that each standby runs to their end before it waits.
    pub warm_ups: Vec<Vec<String>>,
}

/// A pool on disk.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
    manifest: PoolManifest,
}

impl Pool {
    #[cfg(test)]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the pool of a name.
    pub(crate) fn load(layout: &Layout, name: &str) -> Result<Self> {
        let dir = layout.pools().join(name);
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("There is no pool `{name}`"))
                .hint("List them with `coffer pool list`")
        };
        if !valid_name(name) || !dir.is_dir() {
            return Err(missing());
        }
        let mut manifest: PoolManifest = fs::read_json(&dir.join("pool.json"), MAX_MANIFEST_BYTES)
            .map_err(|error| io(format!("The files of pool `{name}` are damaged"), error))?;
        if manifest.format != FORMAT_VERSION {
            let what = format!("Pool `{name}` was made by another version of Cofferdam");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .hint(format!("Make it again: `coffer pool rm {name}`")));
        }
        manifest.plan.rootfs = layout.rootfs_here(&manifest.plan.rootfs);
        Ok(Self { dir, manifest })
    }

    /// Every pool that can be read.
    pub(crate) fn all(layout: &Layout) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(layout.pools()) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                Self::load(layout, name.to_str()?).ok()
            })
            .collect()
    }

    /// The ids of its standbys. What dead ones left is removed.
    pub(crate) fn standbys(&self, layout: &Layout) -> Vec<SandboxId> {
        let mut ids = self.ids();
        ids.retain(|id| self.is_alive(layout, *id));
        ids
    }

    /// The ids of its standbys, dead ones among them.
    fn ids(&self) -> Vec<SandboxId> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn is_alive(&self, layout: &Layout, id: SandboxId) -> bool {
        let place = StandbyPaths::of(layout, self, id);
        match LockFile::try_exclusive(&place.dir.join("lock")) {
            Ok(Some(_lock)) => {
                place.remove(layout);
                false
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    fn info(&self, layout: &Layout) -> PoolInfo {
        let before = self.ids();
        let given_up = before
            .iter()
            .any(|id| StandbyPaths::of(layout, self, *id).is_given_up());
        let ids = self.standbys(layout);
        if (given_up || ids.len() < before.len())
            && !self.is_automatic()
            && let Err(error) = spawn_fill(layout, &self.manifest.name)
        {
            crate::base::task::log_line(&error.chain());
        }
        let ready = |id: &&SandboxId| StandbyPaths::of(layout, self, **id).is_ready();
        let PoolManifest { plan, warm_ups, .. } = &self.manifest;
        let interpreters = plan.interpreters();
        PoolInfo {
            name: self.manifest.name.clone(),
            image: plan.image_name.clone(),
            size: self.manifest.size,
            ready: u32::try_from(ids.iter().filter(ready).count()).unwrap_or(u32::MAX),
            vcpus: plan.shape.vcpus,
            memory_bytes: u64::from(plan.shape.memory_mib) << 20,
            commands: interpreters
                .iter()
                .chain(warm_ups)
                .map(|process| process.argv.join(" "))
                .collect(),
            created_ns: self.manifest.created_ns,
        }
    }

    /// The key of the template that its standbys are restored from, with what it depends on now.
    fn template_key(&self, backend: &dyn Backend, guest: &GuestFiles) -> Result<String> {
        let plan = &self.manifest.plan;
        let compatibility = lift(backend.compatibility_key())?;
        Ok(template::image_key(guest, &compatibility, &plan.shape, &plan.root).0)
    }
}

/// Where a standby's files are.
#[derive(Clone, Debug)]
struct StandbyPaths {
    dir: PathBuf,
    run: PathBuf,
}

impl StandbyPaths {
    fn of(layout: &Layout, pool: &Pool, id: SandboxId) -> Self {
        Self {
            dir: pool.dir.join(id.to_string()),
            run: layout.sandbox(id).run,
        }
    }

    /// The socket on which it is claimed.
    fn socket(&self) -> PathBuf {
        self.run.join("standby.sock")
    }

    fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    /// Whether it waits to be claimed.
    fn is_ready(&self) -> bool {
        self.socket().exists() && self.dir.join(READY).exists()
    }

    /// Removes what it has; leftovers are found again, so a failure needs no report.
    fn remove(&self, layout: &Layout) {
        layout.backends().reap(&self.run);
        let _ = fs::remove_dir_if_present(&self.run);
        let _ = std::fs::remove_dir(layout.run());
        let _ = fs::remove_dir_if_present(&self.dir);
    }
}

/// What a ready standby says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    /// Key of the template that it came from.
    template: String,
    /// What it expects of a client.
    generation: u32,
}

impl Ready {
    fn read(dir: &Path) -> Option<Self> {
        fs::read_json(&dir.join(READY), MAX_MANIFEST_BYTES).ok()
    }
}
