//! The backend contract: what a machine is asked to be, and what can be done with one.
//!
//! `native` and `qemu` implement it, `runtime` uses it; neither knows the other. A call that a
//! backend cannot do fails with [`ErrorKind::Unsupported`]; nothing degrades silently. The
//! contract tests in [`contract`] hold for every implementation, the fake among them.

mod capabilities;
mod capture;
pub mod diagnosis;
mod error;
pub mod log_files;
mod machine;
mod spec;

#[cfg(any(test, feature = "test-utils"))]
pub mod contract;
#[cfg(any(test, feature = "test-utils"))]
pub mod fake;

pub use capabilities::{BackendCapabilities, BackendKind, HostProbe, ProbeFix, SnapshotTier};
pub use capture::{Capture, CapturePlan};
pub use diagnosis::{Diagnosis, DiagnosisKind, Failure, MachineEnd};
pub use error::{Error, ErrorKind, Result, unsupported};
pub use machine::{
    Backend, BoxFuture, DiskFailure, LogKind, Machine, MachineExit, MachineInfo, MachineMetrics,
    MachineStatus, SnapshotFiles,
};
pub use spec::{
    BlockDevice, ConfidentialConfig, ETHERNET_HEADER_BYTES, MAX_MTU, MIN_MTU, MachineSpec,
    MemoryBacking, NetworkInterface,
};
