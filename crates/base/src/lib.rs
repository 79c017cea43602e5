//! What every crate that touches the host needs: errors, time, files, locks, the environment.
//!
//! Invariant: depends on `types` only, holds no global state and starts no thread.

mod boot;
pub mod env_vars;
mod fault;
pub mod fs;
mod lock;
pub mod time;

pub use boot::boot_id;
pub use fault::{Fault, FaultKind};
pub use lock::LockFile;
