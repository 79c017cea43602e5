//! `lab`: a machine with working KVM, under full emulation.

use std::ffi::OsString;

use anyhow::{Result, bail};

/// Runs the verb.
///
/// # Errors
/// Always: the lab is not built yet.
pub(crate) fn run(_args: &[OsString]) -> Result<()> {
    bail!("`lab` is not built yet")
}
