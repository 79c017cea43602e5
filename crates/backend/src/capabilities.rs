//! What a backend can do, and what it found on this host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which implementation a backend is; branch on this, never on a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// The project's own VMM on KVM.
    Native,
    /// QEMU on KVM.
    QemuKvm,
    /// QEMU's emulation.
    QemuTcg,
    /// The fake for tests.
    Fake,
}

/// How much of a machine a snapshot holds. Ordered: a higher tier satisfies a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotTier {
    /// None.
    None,
    /// Disks only.
    Disk,
    /// Disks, memory and devices of a paused machine.
    Memory,
    /// The same of a running one, with a short pause.
    Live,
}

/// What a backend can do. A flag and its method agree; [`crate::contract`] proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCapabilities {
    /// `pause` and `resume`.
    pub pause_resume: bool,
    /// `snapshot` and `restore`.
    pub snapshot: SnapshotTier,
    /// Whether one snapshot may be restored many times at once.
    pub fork: bool,
    /// Whether `network` of a spec may be present.
    pub network: bool,
    /// Whether `file_channel` of a spec may be set.
    pub file_channel: bool,
    /// Whether `confidential` of a spec may be present.
    pub confidential: bool,
    /// Most vCPUs of one machine.
    pub max_vcpus: u8,
    /// Most disks of one machine without a network interface.
    pub max_disks: usize,
    /// Whether `balloon` works.
    pub balloon: bool,
}

/// What a backend found on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProbe {
    /// Whether it can start machines here.
    pub usable: bool,
    /// One sentence: what is there, or what is missing.
    pub summary: String,
    /// The program behind it, if there is one.
    pub program: Option<PathBuf>,
    /// Its version.
    pub version: Option<String>,
    /// What kind of isolation a machine of it has, in words for people.
    pub isolation: String,
    /// What would make it work, or work better.
    pub fixes: Vec<ProbeFix>,
}

/// One thing that the user can mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFix {
    /// What is missing.
    pub what: String,
    /// What it costs to leave it so.
    pub cost: String,
    /// A command that mends it, if one does.
    pub command: Option<String>,
}
