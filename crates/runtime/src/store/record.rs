//! What the store knows of a sandbox: its record, which never changes, and its state.

use std::{path::PathBuf, time::SystemTime};

use cofferdam_base::time::system_time;
use cofferdam_proto::{ProcessSpec, RemoteFailure};
use cofferdam_types::{
    Digest, ExitStatus, NamedSecret, PortMapping, SandboxId, SandboxSpec, SandboxStatus, Signal,
    SnapshotId,
};
use serde::{Deserialize, Serialize};

use crate::{
    base::error::{Error, ErrorKind, Result, from_remote},
    network,
    spec::interpreters::AutoWarmUps,
};

/// Version of the files' form. A newer one is refused, not guessed at.
pub(crate) const RECORD_VERSION: u32 = 1;

/// A sandbox as asked for and resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxRecord {
    /// Version of the file's form.
    pub version: u32,
    /// Id.
    pub id: SandboxId,
    /// Name, unique in the store.
    pub name: String,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// What was asked.
    pub spec: SandboxSpec,
    /// The image that was meant.
    pub image: RecordedImage,
    /// The workload with the image's defaults merged in.
    pub process: ProcessSpec,
    /// Host name in the guest.
    pub hostname: String,
    /// The signal that asks the workload to end.
    pub stop_signal: Signal,
    /// What it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkOrigin>,
}

impl SandboxRecord {
    /// The values of its secrets, for a start by this process.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for a value that is not there.
    pub(crate) fn secret_values(&self) -> Result<Vec<NamedSecret>> {
        let parent = self.forked_from.as_ref().map(|origin| origin.sandbox);
        network::secret_values(self.id, parent, &self.spec.network)
    }

    /// Keeps values of its secrets for the starts, forks and restores that this process does. They
    /// come before those of the environment and of files.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for a value of no secret that it has.
    pub fn give_secrets(&self, values: Vec<NamedSecret>) -> Result<()> {
        network::give_secret_values(self.id, &self.spec.network, values)
    }
}

/// What a sandbox was forked from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkOrigin {
    /// The sandbox whose moment it was.
    pub sandbox: SandboxId,
    /// The snapshot that kept the moment; none if it was forked from the sandbox itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// Which of the forks of that moment it is, from 1; 0 if that was not written down.
    #[serde(default)]
    pub index: u32,
}

/// An image as a sandbox pinned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedImage {
    /// Name by which it was asked for.
    pub name: String,
    /// Digest of its configuration.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// Size of the disk that the guest sees it on, in bytes.
    pub disk_bytes: u64,
    /// What its templates and standbys run ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_warm_ups: Option<AutoWarmUps>,
}

/// Where a sandbox is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxState {
    /// Version of the file's form.
    pub version: u32,
    /// Status.
    pub status: SandboxStatus,
    /// How often it was started.
    pub starts: u32,
    /// Process id of the supervisor, while live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor_pid: Option<u32>,
    /// Process id of the machine's program, while live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_pid: Option<u32>,
    /// The backend that runs or ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// When its workload last started, in nanoseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ns: Option<u64>,
    /// When its workload last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ns: Option<u64>,
    /// How its workload ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// What ended its workload; none if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How many of its processes the guest's kernel has killed since its last start because memory
    /// ran out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u64,
    /// Why the host could not write or read its disk since its last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_failure: Option<Failure>,
    /// What a machine must have in common with it to go on from a capture of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_key: Option<String>,
    /// What went wrong with quicker ways to start, one sentence each; it runs all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// How its lease stands, while it is live and has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseState>,
    /// The ports that are published, while it is live, with those that the host's kernel chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What had a workload end that did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndedBy {
    /// A stop, or the end of its supervisor.
    Stop,
    /// A SIGKILL that was asked for.
    Kill,
    /// The client that it was to end with is gone.
    ClientGone,
    /// Its time-out was over.
    Timeout,
    /// Nothing had used it for its idle time-out.
    IdleTimeout,
}

impl EndedBy {
    /// The sentence about a sandbox that its lease has ended; none if something else did.
    #[must_use]
    pub fn lease_error(self) -> Option<Error> {
        let what = match self {
            Self::Timeout => "The sandbox was ended: its time-out was over",
            Self::IdleTimeout => "The sandbox was ended: nothing used it for its idle time-out",
            Self::Stop | Self::Kill | Self::ClientGone => return None,
        };
        Some(Error::new(ErrorKind::Timeout, what))
    }
}

/// How a live sandbox's lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseState {
    /// When its time is over, in nanoseconds since the Unix epoch; none without a time-out. The
    /// time in which the host sleeps does not count, so it may be later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_ns: Option<u64>,
    /// The time-out that is over and for which it is being, or was, ended or paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<EndedBy>,
}

impl LeaseState {
    /// When its time is over; none without a time-out.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        self.ends_ns.map(system_time)
    }
}

/// A failure as a state file keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Kind by its stable name.
    pub kind: String,
    /// The sentence with its causes.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// The failure that was kept.
    pub(crate) fn into_error(self) -> Error {
        from_remote(&RemoteFailure {
            kind: self.kind,
            message: self.message,
            hint: self.hint,
        })
    }
}

impl From<RemoteFailure> for Failure {
    fn from(failure: RemoteFailure) -> Self {
        Self {
            kind: failure.kind,
            message: failure.message,
            hint: failure.hint,
        }
    }
}

impl SandboxState {
    /// The state of a sandbox that was just made.
    #[must_use]
    pub const fn created() -> Self {
        Self {
            version: RECORD_VERSION,
            status: SandboxStatus::Created,
            starts: 0,
            supervisor_pid: None,
            machine_pid: None,
            backend: None,
            started_ns: None,
            finished_ns: None,
            exit: None,
            ended_by: None,
            failure: None,
            oom_kills: 0,
            disk_failure: None,
            machine_key: None,
            degraded: Vec::new(),
            lease: None,
            ports: Vec::new(),
        }
    }
}
