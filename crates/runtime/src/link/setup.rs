//! What a guest is told about the sandbox that it becomes.

use cofferdam_proto::{GuestNetwork, ProcessSpec, RootSpec, TmpfsSpec, UpperDevice};
use cofferdam_types::{ResourceLimits, SandboxSpec, UpperSpec};

/// A sandbox as its guest must know it.
#[derive(Clone, Debug)]
pub(crate) struct GuestSetup {
    /// 32 hex digits; machine-id(5).
    pub(crate) machine_id: String,
    pub(crate) hostname: String,
    /// Whether it began as a fork.
    pub(crate) is_fork: bool,
    /// Which of its siblings a fork is, from 1 on.
    pub(crate) fork_index: Option<u32>,
    pub(crate) root: RootSpec,
    /// Whether the sandbox wants mounts, or sizes or properties of them, that templates do not have.
    pub(crate) has_mounts: bool,
    pub(crate) process: ProcessSpec,
    pub(crate) limits: ResourceLimits,
    /// Its network interface, if it has one.
    pub(crate) network: Option<GuestNetwork>,
    /// A certificate that it trusts, in PEM.
    pub(crate) trust: Option<String>,
}

impl GuestSetup {
    /// The parts that come from a specification, for a sandbox with this process.
    pub(crate) fn new(
        spec: &SandboxSpec,
        process: ProcessSpec,
        hostname: String,
        machine_id: String,
    ) -> Self {
        Self {
            machine_id,
            hostname,
            is_fork: false,
            fork_index: None,
            root: root_spec(spec),
            has_mounts: has_mounts(spec),
            process,
            limits: workload_limits(spec),
            network: None,
            trust: None,
        }
    }

    /// Whether its limits are narrower than those of the machine that it was forked from may be.
    pub(crate) fn narrows_a_fork(&self) -> bool {
        let has_less = self.limits.cpu_quota_millis.is_some() || self.limits.memory.is_some();
        has_less && self.is_fork
    }
}

fn has_mounts(spec: &SandboxSpec) -> bool {
    !spec.tmpfs.is_empty()
        || spec.shm_size != SandboxSpec::default().shm_size
        || spec.upper == UpperSpec::ReadOnly
}

fn root_spec(spec: &SandboxSpec) -> RootSpec {
    RootSpec {
        upper: match spec.upper {
            UpperSpec::Disk(_) => UpperDevice::Disk,
            UpperSpec::ReadOnly => UpperDevice::ReadOnly,
        },
        shm_bytes: spec.shm_size.bytes(),
        tmpfs: spec
            .tmpfs
            .iter()
            .map(|mount| TmpfsSpec {
                target: mount.target.clone(),
                size_bytes: mount.size.map(cofferdam_types::ByteSize::bytes),
                mode: mount.mode,
                read_only: mount.read_only,
                exec: mount.exec,
                owner: (mount.uid, mount.gid),
            })
            .collect(),
    }
}

/// The limits with the quota that a fractional number of processors means.
pub(crate) fn workload_limits(spec: &SandboxSpec) -> ResourceLimits {
    let mut limits = spec.limits.clone();
    limits.cpu_quota_millis = limits.cpu_quota_millis.or_else(|| spec.cpus.quota_millis());
    limits
}
