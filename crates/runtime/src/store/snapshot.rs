//! What a snapshot says of itself.
//!
//! A manifest is read from disk and, after an import, comes from a stranger: it is bounded,
//! checked, and nothing in it is used as a path.

use std::path::Path;

use cofferdam_backend::SnapshotFiles;
use cofferdam_types::{Digest, SnapshotId};
use serde::{Deserialize, Serialize};

use super::SandboxRecord;

/// Version of a snapshot's form. A newer one is refused, not guessed at.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// How much of a sandbox a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// Memory, devices and disk of one moment.
    Full,
    /// The disk alone, with everything on it that was written before.
    Disk,
}

impl std::fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Disk => "disk",
        })
    }
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Version of the form.
    pub format: u32,
    /// Id.
    pub id: SnapshotId,
    /// Name, unique among the snapshots of a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was taken, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// How much it holds.
    pub kind: SnapshotKind,
    /// The sandbox as it was.
    pub sandbox: SandboxRecord,
    /// The backend that ran the machine; full snapshots need it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Everything that a machine which goes on from this must have in common with the one that
    /// was captured; full snapshots only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<String>,
    /// Rate in kHz of the counter of the host's processor, where the machine reads it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter_khz: Option<u32>,
    /// How long the sandbox stood still, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_us: Option<u64>,
    /// Whether it came from a file: what it says of its sandbox may be a stranger's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// Its files.
    pub files: Vec<SnapshotFile>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    /// Which.
    pub name: SnapshotFileName,
    /// Its length in bytes, holes included.
    pub bytes: u64,
    /// Digest of its content as `snapshot::content` has it.
    pub digest: Digest,
}

/// The files that a snapshot may have: an enumeration, so that no manifest can name another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotFileName {
    /// Guest memory.
    Memory,
    /// Devices and vCPUs.
    State,
    /// The writable disk.
    Upper,
}

impl SnapshotFileName {
    /// The name in the snapshot's directory.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::State => "state",
            Self::Upper => "upper.ext4",
        }
    }

    /// The file of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Memory, Self::State, Self::Upper]
            .into_iter()
            .find(|file| file.as_str() == name)
    }
}

impl SnapshotKind {
    /// The files that a snapshot of this kind has, no more and no fewer.
    #[must_use]
    pub const fn files(self) -> &'static [SnapshotFileName] {
        match self {
            Self::Full => &[
                SnapshotFileName::Memory,
                SnapshotFileName::State,
                SnapshotFileName::Upper,
            ],
            Self::Disk => &[SnapshotFileName::Upper],
        }
    }
}

/// Memory and devices in a directory.
pub(crate) fn machine_files(dir: &Path) -> SnapshotFiles {
    SnapshotFiles {
        memory: dir.join(SnapshotFileName::Memory.as_str()),
        state: dir.join(SnapshotFileName::State.as_str()),
    }
}
