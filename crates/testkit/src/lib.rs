//! What tests share: the real program with a store of its own, images, and a registry that
//! misbehaves on demand.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a failure here is the test's failure"
)]

pub mod bundle;
pub mod coffer;
pub mod copies;
pub mod exports;
pub mod https;
pub mod image;
pub mod qemu;
pub mod registry;
pub mod sandboxes;
mod skip;

pub use skip::skip;

/// Holds a lock until it is dropped, so that one test process makes what all use.
///
/// # Panics
/// When the file cannot be locked.
#[must_use]
pub fn lock(path: &std::path::Path) -> cofferdam_base::LockFile {
    cofferdam_base::LockFile::exclusive(path).expect("lock file is writable")
}
