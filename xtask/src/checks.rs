//! The checks of the source: format, tidy and clippy. Called by `test`.

use anyhow::{Result, bail};

use crate::{process, tidy, workspace};

/// Runs every check of the source, also after one has failed.
///
/// # Errors
/// When one fails: names those that did.
pub(crate) fn run() -> Result<()> {
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
