//! What a machine that goes on from a snapshot must have in common with the one that was captured.
//!
//! The key is a list of parts, `name value`, with `; ` between them: the backend, its program's
//! version with the build, the machine, the processor, the guest's kernel and agent. Paths
//! and owners of files are no part of it, so a snapshot can go to any host with the same parts.

use cofferdam_backend::Backend;

use super::guest::GuestFiles;
use crate::base::error::{Result, lift};

/// The key of a machine of `backend` with this guest.
pub(crate) fn machine_key(backend: &dyn Backend, guest: &GuestFiles) -> Result<String> {
    Ok(format!(
        "{}; {}",
        lift(backend.compatibility_key())?,
        guest.parts()
    ))
}
