//! What is of one developer's machine stays out of the project.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::{Finding, Source};

/// The only place that third-party crates come from, as Cargo.lock writes it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

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

fn foreign_sources(lock: &str) -> Vec<Finding> {
    lock.lines()
        .enumerate()
        .filter_map(|(number, line)| Some((number, line.strip_prefix("source = ")?)))
        .filter(|(_, source)| source.trim_matches('"') != REGISTRY)
        .map(|(number, source)| {
            let message = format!("takes a crate from {source}, which is not crates.io");
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

/// The hosts of the URLs in a configuration file, without public ones.
fn hosts(config: &str) -> Vec<String> {
    config
        .split("://")
        .skip(1)
        .filter_map(|rest| {
            rest.split(['/', '"', '\'', ':', '@'])
                .find(|part| part.contains('.'))
        })
        .filter(|host| !REGISTRY.contains(host) && !host.ends_with("crates.io"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_come_from_one_registry() {
        let lock = format!("source = \"{REGISTRY}\"\nsource = \"git+https://a.example/b\"\n");
        let findings = foreign_sources(&lock);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "Cargo.lock:2");
    }

    #[test]
    fn hosts_of_mirrors_are_private_and_public_ones_are_not() {
        let config = "registry = \"sparse+https://mirror.example/index/\"\n\
                      other = \"https://index.crates.io/\"\n";
        assert_eq!(hosts(config), ["mirror.example"]);
    }
}
