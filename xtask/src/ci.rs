//! `ci`: the checks of the source, then every test. It is `test` without arguments.

use std::ffi::OsString;

use anyhow::Result;

use crate::{args::Args, test};

/// Runs the verb.
///
/// # Errors
/// When a check or a test fails.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    Args::parse(args, &[])?;
    test::run(&[])
}
