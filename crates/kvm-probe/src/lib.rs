//! The live KVM check.
//!
//! [`KvmProbe`] shows whether this host's KVM can run a stock 64-bit kernel, by running a small one
//! of its own, and what would fix it if not. Used by the backends and by `doctor`.
//!
//! Invariant: nothing here is async, keeps global state or changes a process's signal handlers.
//! One of the few crates with unsafe code; each block says why it is sound.

#![allow(unsafe_code, reason = "KVM is reached by ioctls, mappings and timers")]

mod check;
mod child;
mod finding;
mod fixes;
mod host;
#[cfg(target_arch = "x86_64")]
mod probe;
mod tsc;

pub use check::{KvmProbe, probe_in_process};
pub use child::probe_in_child;
pub use finding::{Evidence, Fix, KvmFinding, KvmVerdict};
pub use host::{CpuVendor, HostFacts, HostView, KvmNode};
pub use tsc::host_tsc_khz;
