//! Templates: machines stopped at a known point, from which sandboxes start.
//!
//! A base template is a booted kernel with a ready agent; it fits any image. An image template
//! has the image's root mounted besides. Both live in a directory named by their key, which holds
//! everything that must match: kernel, agent, backend and its version, processors, memory, disk
//! sizes, and for an image template the image and how its root is mounted. A workload template
//! holds the image's workload running too. When any of it changes, the key does, and the old
//! template is never found again; see [`catalogue`] and [`space`] for when it goes.
//!
//! A template is published by a rename, so it is whole or not there; what is loaded is checked
//! against its manifest (format, sizes, checksum of the device state). What comes after that is
//! advice: see [`working_set`].

mod auto_warm_up;
mod background;
mod build;
mod catalogue;
mod failure;
mod fill;
mod key;
mod list;
mod machine;
mod making;
mod plan;
mod quality;
mod space;
mod warm;
mod working_set;

use std::path::{Path, PathBuf};

use cofferdam_backend::SnapshotFiles;
use cofferdam_base::fs;
use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) use self::catalogue::Templates;
pub use self::catalogue::{TemplateInfo, WarmUp};
pub(crate) use self::{
    auto_warm_up::{quiesce, run_warm_ups, warm_up_claim},
    background::{build_main, spawn_image_build},
    build::{ensure_base, make_image, wait_for_maker},
    failure::{all_recent as recent_failures, recent as recent_failure},
    key::{HeldWorkload, MachineShape, RootShape, base_key, image_key, workload_key},
    machine::machine_spec,
    making::BOOT_TIMEOUT,
    plan::TemplatePlan,
    space::limit_bytes,
    warm::{DEFAULT_TIMEOUT, warm_up},
    working_set::Recording,
};
use crate::{
    base::error::{Error, ErrorKind, Result, io},
    store::layout::Layout,
};

/// Version of the directory's form.
const FORMAT_VERSION: u32 = 3;

/// A manifest is a few hundred bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;

/// Largest device state in bytes; QEMU's is tens of KiB with the memory apart.
const MAX_STATE_BYTES: u64 = 16 << 20;

/// A template on disk.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    dir: PathBuf,
}

/// What a template holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateKind {
    /// A booted kernel and a ready agent.
    Base,
    /// An image's root mounted and warm besides.
    Image,
    /// The workload running besides.
    Workload,
}

impl std::fmt::Display for TemplateKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Image => "image",
            Self::Workload => "workload",
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    kind: TemplateKind,
    /// Everything that went into the key, for people.
    about: Vec<String>,
    created_ns: u64,
    vcpus: u8,
    memory_bytes: u64,
    state_digest: Digest,
    /// Digest of the image's manifest.
    image: Option<Digest>,
    image_name: Option<String>,
    /// What somebody asked to run before the capture, and what runs. The harmless starts of
    /// interpreters are no part of it: without commands a template is one that a start makes.
    commands: Vec<String>,
    /// The command that a start runs before the held workload goes on.
    #[serde(default)]
    on_fork: Option<String>,
    /// What of its guest is not as fast as it could be, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl Manifest {
    /// One without what is known only at the end.
    fn new(kind: TemplateKind, about: Vec<String>, shape: &MachineShape) -> Self {
        Self {
            format: FORMAT_VERSION,
            kind,
            about,
            created_ns: 0,
            vcpus: shape.vcpus,
            memory_bytes: u64::from(shape.memory_mib) << 20,
            state_digest: Digest::from_sha256([0; 32]),
            image: None,
            image_name: None,
            commands: Vec::new(),
            on_fork: None,
            notes: Vec::new(),
        }
    }
}

impl Template {
    /// The template of a key, if there is one and it is sound.
    pub(crate) fn find(layout: &Layout, key: &str) -> Option<Self> {
        Self::look_for(layout, key).unwrap_or_default()
    }

    /// The template of a key, if there is one.
    ///
    /// # Errors
    /// What was wrong with it; it was removed then.
    pub(crate) fn look_for(layout: &Layout, key: &str) -> Result<Option<Self>> {
        let template = Self {
            dir: layout.templates().join(key),
        };
        if !template.dir.is_dir() {
            return Ok(None);
        }
        match template.check() {
            Ok(()) => {
                template.touch();
                Ok(Some(template))
            }
            Err(error) => {
                // Out of the way, so that a new one can be made.
                template.give_up();
                Err(error)
            }
        }
    }

    /// Removes one that is of no use.
    pub(crate) fn give_up(&self) {
        // What cannot be removed is found unsound again.
        let _ = self.remove();
    }

    /// The template in a directory, if it is the directory of one.
    fn at(dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let is_key = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_key && dir.is_dir()).then(|| Self {
            dir: dir.to_owned(),
        })
    }

    /// Removes it. Machines that came from it hold its memory open.
    fn remove(&self) -> Result<()> {
        let doomed = fs::staging_path(&self.dir);
        match std::fs::rename(&self.dir, &doomed) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io("Could not remove a template", error)),
        }
        // What is left are files that any later call sweeps.
        let _ = fs::remove_dir_if_present(&doomed);
        Ok(())
    }

    fn manifest(&self) -> Result<Manifest> {
        fs::read_json(&self.dir.join("manifest.json"), MAX_MANIFEST_BYTES)
            .map_err(|error| io("Could not read a template's manifest", error))
    }

    fn info(&self) -> Result<TemplateInfo> {
        let manifest = self.manifest()?;
        let disk_bytes = self.disk_bytes()?;
        let name = self.dir.file_name().unwrap_or_default();
        Ok(TemplateInfo {
            key: name.to_string_lossy().into_owned(),
            kind: manifest.kind,
            image: manifest.image_name,
            manifest: manifest.image,
            commands: manifest.commands,
            vcpus: manifest.vcpus,
            memory_bytes: manifest.memory_bytes,
            disk_bytes,
            created_ns: manifest.created_ns,
            about: manifest.about,
        })
    }

    /// Bytes that it uses on the disk.
    fn disk_bytes(&self) -> Result<u64> {
        let files = self.files();
        let mut bytes = 0;
        for path in [files.memory, files.state, self.upper()] {
            if path.exists() {
                bytes += crate::base::error::lift(cofferdam_disk::allocated_bytes(&path))?;
            }
        }
        Ok(bytes)
    }

    pub(crate) fn files(&self) -> SnapshotFiles {
        files_in(&self.dir)
    }

    /// The upper disk that the template's guest has mounted; only image templates have one.
    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    /// The command that a start runs before the held workload goes on.
    pub(crate) fn on_fork(&self) -> Result<Option<String>> {
        Ok(self.manifest()?.on_fork)
    }

    /// What of its guest is not as fast as it could be, one sentence each.
    pub(crate) fn notes(&self) -> Vec<String> {
        // One without a manifest is found unsound when it is restored.
        self.manifest().map(|m| m.notes).unwrap_or_default()
    }

    fn check(&self) -> Result<()> {
        let bad = |what: &str| Error::new(ErrorKind::BadSnapshot, format!("Template {what}"));
        let manifest = self.manifest()?;
        if manifest.format != FORMAT_VERSION {
            return Err(bad("has another format"));
        }
        let files = self.files();
        let memory = std::fs::metadata(&files.memory)
            .map_err(|error| io("Could not read a template's memory", error))?;
        if memory.len() != manifest.memory_bytes {
            return Err(bad("has a memory file of the wrong size"));
        }
        if state_digest(&files.state)? != manifest.state_digest {
            return Err(bad("has damaged device state"));
        }
        Ok(())
    }
}

fn files_in(dir: &Path) -> SnapshotFiles {
    SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    }
}

fn state_digest(path: &Path) -> Result<Digest> {
    let state = fs::read_bounded(path, MAX_STATE_BYTES)
        .map_err(|error| io("Could not read a template's device state", error))?;
    Ok(Digest::from_sha256(Sha256::digest(&state).into()))
}
