//! `tidy`: the rules of the house that no lint checks.
//!
//! Every rule is a function from what it looks at to findings; the verb prints all findings and
//! fails if one is an error.

mod cycles;
mod layers;
mod map;
mod modules;
mod secrets;
mod sources;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{args::Args, process, workspace};

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    severity: Severity,
    /// Path from the root, with a line where that helps.
    place: String,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Warning,
    Error,
}

impl Finding {
    fn error(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.into(),
            message: message.into(),
        }
    }

    fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }
}

/// A file of the project.
#[derive(Debug)]
struct Source {
    /// From the root.
    path: String,
    text: String,
}

/// Runs the verb.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    Args::parse(args, &[])?;
    let root = workspace::root();
    let files = read_files(root)?;
    let metadata = workspace::metadata()?;
    let table = layers::Table::parse(&read(&root.join("docs/layers.toml"))?)?;
    let packages = layers::packages(&metadata)?;
    let mut findings = layers::check(&table, &packages);
    findings.extend(files.iter().flat_map(|file| sources::check(&table, file)));
    findings.extend(map::check(&files, &packages));
    findings.extend(cycles::check(&table, &files));
    findings.extend(secrets::check(&files));
    report(&findings)
}

fn report(findings: &[Finding]) -> Result<()> {
    for finding in findings {
        let severity = match finding.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        eprintln!("{severity}: {}: {}", finding.place, finding.message);
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    if errors > 0 {
        bail!("Tidy found {errors} broken rules");
    }
    Ok(())
}

/// Every text file that git tracks or would track.
fn read_files(root: &Path) -> Result<Vec<Source>> {
    let list = process::capture(Command::new("git").current_dir(root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]))?;
    let paths: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    Ok(paths
        .into_iter()
        // Binary files, and files deleted but still in the index, have no text to judge.
        .filter_map(|path| {
            Some(Source {
                text: fs::read_to_string(root.join(&path)).ok()?,
                path: path.display().to_string(),
            })
        })
        .collect())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("Could not read `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_pass_and_errors_fail() {
        report(&[Finding::warning("a", "long")]).unwrap();
        let error = report(&[Finding::warning("a", "long"), Finding::error("b", "bad")]);
        assert_eq!(error.unwrap_err().to_string(), "Tidy found 1 broken rules");
    }
}
