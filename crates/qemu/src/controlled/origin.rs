//! What a machine began with.

use std::{fs::File, path::PathBuf, sync::Arc};

/// What a machine began with.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Its kernel, and memory of its own.
    Booted,
    /// A snapshot, mapped privately; its files may have lost their names since.
    Restored { memory: Arc<File>, state: Arc<File> },
    /// Memory that is this file.
    Shared(PathBuf),
}
