//! Sandboxes that begin in the middle: made from a snapshot or a capture, not by a start.
//!
//! `resume.json` in a sandbox's directory names the memory and devices that its next start goes
//! on from. It is written before the sandbox appears and removed once the guest has confirmed its
//! identity; after that the sandbox is like any other.

use std::path::{Path, PathBuf};

use cofferdam_backend::SnapshotFiles;
use cofferdam_base::fs;
use cofferdam_proto::IdentityCause;
use serde::{Deserialize, Serialize};

use super::{layout::SandboxPaths, snapshot::SnapshotFileName};
use crate::base::error::{Result, io, lift};

/// Two paths.
const MAX_BYTES: u64 = 64 << 10;

/// Where a sandbox's next start goes on from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resume {
    memory: PathBuf,
    state: PathBuf,
    /// Whether a machine has begun to go on from it.
    #[serde(default)]
    begun: bool,
    /// A fork's or a restore's.
    cause: IdentityCause,
}

impl Resume {
    pub(crate) fn new(files: &SnapshotFiles, cause: IdentityCause) -> Self {
        Self {
            memory: files.memory.clone(),
            state: files.state.clone(),
            begun: false,
            cause,
        }
    }

    /// To be called before a machine goes on from it. One that did so earlier and did not confirm
    /// may have written to the disk, which then is of no one moment with the memory: it is put back.
    pub(crate) fn begin(&mut self, paths: &SandboxPaths) -> Result<()> {
        if !self.begun {
            self.begun = true;
            return self.write(&paths.dir);
        }
        let name = SnapshotFileName::Upper.as_str();
        let staging = fs::staging_path(&paths.upper());
        let put_back = lift(cofferdam_disk::copy_sparse(
            &self.memory.with_file_name(name),
            &staging,
        ))
        .and_then(|()| {
            std::fs::rename(&staging, paths.upper())
                .map_err(|error| io("Could not put a sandbox's disk back", error))
        });
        if put_back.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file_if_present(&staging);
        }
        put_back
    }

    /// Writes it into a sandbox's directory.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        fs::publish_json(&dir.join(FILE), self, false)
            .map_err(|error| io("Could not write where a sandbox goes on", error))
    }

    /// What a sandbox goes on from; none if it starts afresh.
    pub(crate) fn read(paths: &SandboxPaths) -> Result<Option<Self>> {
        match fs::read_json(&paths.dir.join(FILE), MAX_BYTES) {
            Ok(resume) => Ok(Some(resume)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("Could not read where a sandbox goes on", error)),
        }
    }

    /// Forgets it: from now on the sandbox is like any other.
    pub(crate) fn clear(paths: &SandboxPaths) -> Result<()> {
        fs::remove_file_if_present(&paths.dir.join(FILE))
            .map_err(|error| io("Could not forget where a sandbox went on", error))
    }

    /// Why the sandbox goes on in the middle.
    pub(crate) const fn cause(&self) -> IdentityCause {
        self.cause
    }

    pub(crate) fn files(&self) -> SnapshotFiles {
        SnapshotFiles {
            memory: self.memory.clone(),
            state: self.state.clone(),
        }
    }

    /// Whether what it goes on from is still there. The capture of a fork that was killed is not.
    pub(crate) fn is_whole(&self) -> bool {
        self.memory.is_file() && self.state.is_file()
    }

    /// Whether it goes on from a capture that was made for it alone, and not from a snapshot.
    pub(crate) fn is_of_capture(&self) -> bool {
        let dir = self.memory.parent().and_then(Path::file_name);
        let owner = dir.and_then(|name| fs::staging_owner(name.to_str()?));
        owner.is_some()
    }
}

const FILE: &str = "resume.json";
