//! OCI images: from a reference, a registry or an archive to one EROFS root file system.

mod erofs;
mod error;
mod layer;

pub use erofs::{RootfsStats, build_rootfs};
pub use error::{Error, ErrorKind, Result};
pub use layer::{Compression, LayerSource, Limits};
