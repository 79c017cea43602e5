//! KVM: the host check now, the native machine later.
//!
//! [`KvmProbe`] tells whether this host's KVM can run a stock 64-bit kernel, by running a small one
//! of its own, and what would mend it if not; [`diagnose`] tells from a dead machine's traces what
//! it died of. Used by the backends and by `doctor`.
//!
//! Invariant: nothing here is async, keeps global state or changes a process's signal handlers.
//! One of the few crates with unsafe code; each block says why it is sound.

#![allow(unsafe_code, reason = "KVM is reached by ioctls, mappings and timers")]

mod child;
mod diagnose;
mod finding;
mod fixes;
mod host;
mod hypervisor;
#[cfg(target_arch = "x86_64")]
mod probe;
mod tsc;

pub use child::probe_in_child;
pub use diagnose::{Diagnosis, DiagnosisKind, Failure, MachineEnd, diagnose};
pub use finding::{Evidence, Fix, KvmFinding, KvmVerdict};
pub use host::{CpuVendor, HostFacts, HostView, KvmNode};
pub use hypervisor::{HypervisorProbe, KvmProbe, probe_in_process};
pub use tsc::host_tsc_khz;
