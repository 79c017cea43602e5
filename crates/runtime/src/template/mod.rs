//! Templates: machines stopped at a known point, from which sandboxes start.
//!
//! A base template is a booted kernel with a ready agent; it fits any image. An image template
//! has the image's root mounted besides. Both live in a directory named by their key, which holds
//! everything that must match: kernel, agent, backend and its version, processors, memory, disk
//! sizes, and for an image template the image and how its root is mounted. When any of it
//! changes, the key does, and the old template is never found again.
//!
//! A template is published by a rename, so it is whole or not there; what is loaded is checked
//! against its manifest (format, sizes, checksum of the device state).

mod build;
mod key;

use std::path::{Path, PathBuf};

use cofferdam_backend::SnapshotFiles;
use cofferdam_base::fs;
use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) use self::build::{
    BOOT_TIMEOUT, build_main, ensure_base, machine_spec, spawn_image_build,
};
pub(crate) use self::key::{MachineShape, RootShape, base_key, image_key};
use crate::{
    error::{Error, ErrorKind, Result, io},
    layout::Layout,
};

/// Version of the directory's form.
const FORMAT_VERSION: u32 = 1;

/// A manifest is a few hundred bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;

/// Largest device state in bytes; QEMU's is tens of KiB with the memory apart.
const MAX_STATE_BYTES: u64 = 16 << 20;

/// A template on disk.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    dir: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    /// Everything that went into the key, for people.
    about: Vec<String>,
    created_ns: u64,
    memory_bytes: u64,
    state_digest: Digest,
    image: Option<Digest>,
}

impl Template {
    /// The template of a key, if there is one and it is sound.
    pub(crate) fn find(layout: &Layout, key: &str) -> Option<Self> {
        let template = Self {
            dir: layout.templates().join(key),
        };
        if !template.dir.is_dir() {
            return None;
        }
        if template.check().is_ok() {
            return Some(template);
        }
        // Damaged: out of the way, so that a new one can be made.
        let doomed = fs::staging_path(&template.dir);
        let _ = std::fs::rename(&template.dir, &doomed);
        let _ = fs::remove_dir_if_present(&doomed);
        None
    }

    pub(crate) fn files(&self) -> SnapshotFiles {
        files_in(&self.dir)
    }

    /// The upper disk that the template's guest has mounted; only image templates have one.
    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    fn check(&self) -> Result<()> {
        let bad = |what: &str| Error::new(ErrorKind::BadImage, format!("Template {what}"));
        let manifest: Manifest = fs::read_json(&self.dir.join("manifest.json"), MAX_MANIFEST_BYTES)
            .map_err(|error| io("Could not read a template's manifest", error))?;
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
