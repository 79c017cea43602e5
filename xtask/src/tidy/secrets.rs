//! What is of one developer's machine stays out of the project.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{Finding, Source};

/// How Cargo.lock writes a registry, as opposed to a repository or a local mirror's protocol.
const REGISTRY_PREFIX: &str = "registry+https://";

/// Checks Cargo.lock's sources, and that no file names a host of this machine's cargo
/// configuration (a mirror) or this checkout's or the user's directory.
pub(super) fn check(files: &[Source]) -> Vec<Finding> {
    let names = private_names();
    let mut findings: Vec<_> = files
        .iter()
        .filter(|file| file.path == "Cargo.lock")
        .flat_map(|file| foreign_sources(&file.text))
        .collect();
    for file in files {
        for name in &names {
            if let Some(number) = file
                .text
                .lines()
                .position(|line| line.contains(name.as_str()))
            {
                let place = format!("{}:{}", file.path, number + 1);
                findings.push(Finding::error(
                    place,
                    "names a host or directory of this machine",
                ));
            }
        }
    }
    findings
}

/// Sources that are no registry, or another one than the first crate's.
fn foreign_sources(lock: &str) -> Vec<Finding> {
    let sources = || {
        lock.lines()
            .enumerate()
            .filter_map(|(number, line)| Some((number, line.strip_prefix("source = ")?)))
    };
    let usual = sources().next().map(|(_, source)| source);
    sources()
        .filter(|(_, source)| {
            !source.trim_matches('"').starts_with(REGISTRY_PREFIX) || Some(*source) != usual
        })
        .map(|(number, source)| {
            let message = format!("takes a crate from {source}, not from the others' registry");
            Finding::error(format!("Cargo.lock:{}", number + 1), message)
        })
        .collect()
}

/// Names that mean something on this machine only.
fn private_names() -> Vec<String> {
    let config = cargo_home()
        .and_then(|home| fs::read_to_string(home.join("config.toml")).ok())
        .unwrap_or_default();
    let mut names = hosts(&config);
    names.push(format!("{}/", crate::workspace::root().display()));
    names
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
}

/// The hosts of the URLs in a configuration file.
fn hosts(config: &str) -> Vec<String> {
    config
        .split("://")
        .skip(1)
        .filter_map(|rest| {
            rest.split(['/', '"', '\'', ':', '@'])
                .find(|part| part.contains('.'))
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_come_from_one_registry() {
        let lock = "source = \"registry+https://one.example/i\"\n\
                    source = \"git+https://a.example/b\"\n\
                    source = \"registry+https://two.example/i\"\n";
        let findings = foreign_sources(lock);
        let places: Vec<_> = findings
            .iter()
            .map(|finding| finding.place.as_str())
            .collect();
        assert_eq!(places, ["Cargo.lock:2", "Cargo.lock:3"]);
    }

    #[test]
    fn hosts_are_found_in_every_kind_of_url() {
        let config = "registry = \"sparse+https://mirror.example/index/\"\n\
                      other = \"http://user@second.example:80/\"\n";
        assert_eq!(hosts(config), ["mirror.example", "second.example"]);
    }
}
