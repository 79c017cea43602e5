//! What is known of a sandbox.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use cofferdam_runtime::{
    EndedBy, Entry, Error, ErrorKind, ForkOrigin, Layout, LeaseState, system_time,
};
use cofferdam_types::{Digest, ExitStatus, PortMapping, SandboxId, SandboxSpec, SandboxStatus};
use serde::Serialize;

/// What is known of a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SandboxInfo {
    /// Id.
    pub id: SandboxId,
    /// Name.
    pub name: String,
    /// Where it is in its life.
    pub status: SandboxStatus,
    /// The image as it was asked for.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: Digest,
    /// Program and arguments of the workload.
    pub command: Vec<String>,
    /// Environment of the workload.
    pub env: Vec<String>,
    /// Working directory of the workload.
    pub workdir: String,
    /// User of the workload; empty is root.
    pub user: String,
    /// Host name in the guest.
    pub hostname: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When its workload last started.
    pub started: Option<String>,
    /// When its workload last ended.
    pub finished: Option<String>,
    /// Nanoseconds since the Unix epoch of `created`.
    pub created_ns: u64,
    /// Nanoseconds since the Unix epoch of `started`.
    pub started_ns: Option<u64>,
    /// Nanoseconds since the Unix epoch of `finished`.
    pub finished_ns: Option<u64>,
    /// Exit code of the workload, 128 + n for a signal.
    pub exit_code: Option<u8>,
    /// What ended its workload; none if it ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// How its lease stands, while it is live and has a time-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseState>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether the guest's kernel has killed one of its processes since its last start because
    /// memory ran out.
    pub oom_killed: bool,
    /// How many it has killed.
    pub oom_kills: u64,
    /// Why the host could not read or write its disk since its last start, as when the host's disk
    /// is full.
    pub disk_failure: Option<String>,
    /// The backend that runs or ran it.
    pub backend: Option<String>,
    /// What went wrong with quicker ways to start it, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// What it was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkOrigin>,
    /// Process id of its supervisor on the host.
    pub supervisor_pid: Option<u32>,
    /// Process id of its machine on the host.
    pub machine_pid: Option<u32>,
    /// The published ports, while it is live, with those that the host chose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Its directory on the host, with its logs.
    pub directory: PathBuf,
    /// What was asked.
    pub spec: SandboxSpec,
}

impl SandboxInfo {
    pub(crate) fn from_entry(entry: Entry, layout: &Layout) -> Self {
        let Entry { record, state } = entry;
        let time = cofferdam_runtime::rfc3339;
        Self {
            id: record.id,
            name: record.name,
            status: state.status,
            image: record.image.name,
            image_id: record.image.id,
            command: record.process.argv,
            env: record.process.env,
            workdir: record.process.workdir,
            user: record.process.user,
            hostname: record.hostname,
            labels: record.spec.labels.clone(),
            created: time(record.created_ns),
            started: state.started_ns.map(time),
            finished: state.finished_ns.map(time),
            created_ns: record.created_ns,
            started_ns: state.started_ns,
            finished_ns: state.finished_ns,
            exit_code: state.exit.map(ExitStatus::code),
            ended_by: state.ended_by,
            lease: state.lease,
            failure: state.failure.map(|failure| failure.message),
            oom_killed: state.oom_kills > 0,
            oom_kills: state.oom_kills,
            disk_failure: state.disk_failure.map(|failure| failure.message),
            backend: state.backend,
            degraded: state.degraded,
            forked_from: record.forked_from,
            supervisor_pid: state.supervisor_pid,
            machine_pid: state.machine_pid,
            ports: state.ports,
            directory: layout.sandbox(record.id).dir,
            spec: record.spec,
        }
    }

    /// When it was made.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        system_time(self.created_ns)
    }

    /// When its workload last started.
    #[must_use]
    pub fn started_at(&self) -> Option<SystemTime> {
        self.started_ns.map(system_time)
    }

    /// When its workload last ended.
    #[must_use]
    pub fn finished_at(&self) -> Option<SystemTime> {
        self.finished_ns.map(system_time)
    }

    /// What went wrong around the sandbox since its last start and may have ended it: a time-out
    /// that is over, memory that ran out, a host's disk that is full.
    #[must_use]
    pub fn warnings(&self) -> Vec<Error> {
        let lease = self.ended_by.and_then(EndedBy::lease_error);
        if self.exit_code == Some(0) {
            return Vec::new();
        }
        let memory = self
            .oom_killed
            .then(|| cofferdam_runtime::memory_error(&self.spec));
        let disk = self
            .disk_failure
            .as_ref()
            .map(|what| Error::new(ErrorKind::NoSpace, what.clone()));
        [lease, memory, disk].into_iter().flatten().collect()
    }
}
