//! `bench`: ratios against other systems, in one run.

use std::ffi::OsString;

use anyhow::{Result, bail};

/// Runs the verb.
///
/// # Errors
/// Always: the benchmarks are not built yet.
pub(crate) fn run(_args: &[OsString]) -> Result<()> {
    bail!("`bench` is not built yet")
}
