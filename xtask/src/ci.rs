//! `ci`: the checks of the source, then every test. Also called by `test`.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::{args::Args, process, test, tidy, workspace};

/// Runs the verb.
///
/// # Errors
/// When a check or a test fails.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    Args::parse(args, &[])?;
    test::run(&[])
}

/// Runs every check of the source, also after one has failed.
///
/// # Errors
/// When one fails: names those that did.
pub(crate) fn checks() -> Result<()> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    check(
        "fmt",
        process::run(&mut workspace::cargo(&["fmt", "--all", "--check"])),
    );
    check("tidy", tidy::run(&[]));
    check(
        "clippy",
        process::run(&mut workspace::cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ])),
    );
    if !failed.is_empty() {
        bail!("Checks failed: {}", failed.join(", "));
    }
    Ok(())
}
