//! Disk files: blank ext4 uppers, copies that stay sparse, and bundles of such files.
//!
//! Called by `runtime` when it makes, exports or imports a sandbox, a template or a snapshot. Invariant: knows no VM; a disk is a
//! raw file whose format is never probed.

mod bundle;
mod error;
mod ext4;
mod sparse;

pub use bundle::{BundleFile, BundleLimits, BundleReader, BundleWriter};
pub use error::{Error, ErrorKind, Result};
pub use ext4::{MIN_UPPER_BYTES, create_upper};
pub use sparse::{allocated_bytes, copy_sparse, create_sparse, data_ranges, read_ahead};
