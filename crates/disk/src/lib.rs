//! Disk files: blank ext4 uppers and copies that stay sparse.
//!
//! Called by `runtime` when it makes a sandbox or a template. Invariant: knows no VM; a disk is a
//! raw file whose format is never probed.

mod error;
mod ext4;
mod sparse;

pub use error::{Error, ErrorKind, Result};
pub use ext4::{MIN_UPPER_BYTES, create_upper};
pub use sparse::{allocated_bytes, copy_sparse, create_sparse};
