//! Which crate may use which: docs/layers.toml against what cargo knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::Finding;

/// Prefix of the package names of our crates.
const PREFIX: &str = "cofferdam-";

/// docs/layers.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// The crates, by folder name.
    #[serde(rename = "crate")]
    crates: BTreeMap<String, Rule>,
    /// Third-party crates that only some may use.
    external: BTreeMap<String, Vec<String>>,
    /// The parts of some crates, by folder name: each uses earlier ones only.
    #[serde(default)]
    pub(super) parts: BTreeMap<String, Vec<String>>,
    /// Crates that may have unsafe code.
    #[serde(rename = "unsafe")]
    pub(super) with_unsafe: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    layer: u32,
    uses: Vec<String>,
}

/// A package of the workspace as cargo knows it.
#[derive(Debug)]
pub(super) struct Package {
    /// The crate's folder name.
    pub(super) name: String,
    /// Dependencies without development dependencies; our own by folder name.
    dependencies: Vec<String>,
}

impl Table {
    /// Reads docs/layers.toml.
    ///
    /// # Errors
    /// When it is no such table.
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("Could not read `docs/layers.toml`")
    }
}

/// The packages in the answer of `cargo metadata`.
///
/// # Errors
/// When the answer lacks a field that it always has.
pub(super) fn packages(metadata: &Value) -> Result<Vec<Package>> {
    list(metadata, "packages")?
        .iter()
        .map(|package| {
            let dependencies = list(package, "dependencies")?
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(name_of)
                .collect::<Result<_>>()?;
            Ok(Package {
                name: name_of(package)?,
                dependencies,
            })
        })
        .collect()
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field]
        .as_array()
        .with_context(|| format!("`cargo metadata` has no `{field}`"))
}

fn name_of(value: &Value) -> Result<String> {
    let name = value["name"]
        .as_str()
        .context("`cargo metadata` has no `name`")?;
    Ok(name.strip_prefix(PREFIX).unwrap_or(name).to_owned())
}

/// Checks every edge.
pub(super) fn check(table: &Table, packages: &[Package]) -> Vec<Finding> {
    let mut findings = check_table(table);
    for package in packages {
        let place = format!("crate `{}`", package.name);
        let Some(rule) = table.crates.get(&package.name) else {
            findings.push(Finding::error(place, "is not in docs/layers.toml"));
            continue;
        };
        for used in &package.dependencies {
            if table.crates.contains_key(used) && !rule.uses.contains(used) {
                let message = format!("uses `{used}`, which docs/layers.toml does not allow");
                findings.push(Finding::error(&place, message));
            }
            if table
                .external
                .get(used)
                .is_some_and(|only| !only.contains(&package.name))
            {
                let message = format!("uses `{used}`, which is for other crates");
                findings.push(Finding::error(&place, message));
            }
        }
    }
    for name in table.crates.keys() {
        if !packages.iter().any(|package| package.name == *name) {
            let message = format!("names the crate `{name}`, which does not exist");
            findings.push(Finding::error("docs/layers.toml", message));
        }
    }
    findings
}

/// Checks that the table itself points down only.
fn check_table(table: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, rule) in &table.crates {
        for used in &rule.uses {
            let below = table.crates.get(used).is_some_and(|other| {
                other.layer < rule.layer || (rule.layer == 0 && other.layer == 0)
            });
            if !below {
                let message = format!("lets `{name}` use `{used}`, which is no lower layer");
                findings.push(Finding::error("docs/layers.toml", message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "unsafe = []\n[crate]\ntypes = { layer = 0, uses = [] }\n\
        net = { layer = 1, uses = [\"types\"] }\nvm = { layer = 1, uses = [] }\n\
        [external]\ntokio = [\"vm\"]\n";

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn messages(table: &str, packages: &[Package]) -> Vec<String> {
        check(&Table::parse(table).unwrap(), packages)
            .into_iter()
            .map(|finding| format!("{} {}", finding.place, finding.message))
            .collect()
    }

    #[test]
    fn allowed_edges_pass() {
        let packages = [
            package("types", &[]),
            package("net", &["types"]),
            package("vm", &["tokio"]),
        ];
        assert_eq!(messages(TABLE, &packages), [""; 0]);
    }

    #[test]
    fn an_edge_that_the_table_lacks_is_found() {
        let packages = [
            package("types", &[]),
            package("net", &["vm"]),
            package("vm", &[]),
        ];
        assert_eq!(
            messages(TABLE, &packages),
            ["crate `net` uses `vm`, which docs/layers.toml does not allow"]
        );
    }

    #[test]
    fn a_third_party_crate_in_the_wrong_place_is_found() {
        let packages = [
            package("types", &["tokio"]),
            package("net", &[]),
            package("vm", &[]),
        ];
        assert_eq!(
            messages(TABLE, &packages),
            ["crate `types` uses `tokio`, which is for other crates"]
        );
    }

    #[test]
    fn a_table_that_points_sideways_is_found() {
        let table = TABLE.replace(
            "vm = { layer = 1, uses = []",
            "vm = { layer = 1, uses = [\"net\"]",
        );
        let packages = [
            package("types", &[]),
            package("net", &[]),
            package("vm", &[]),
        ];
        assert_eq!(
            messages(&table, &packages),
            ["docs/layers.toml lets `vm` use `net`, which is no lower layer"]
        );
    }

    #[test]
    fn crates_and_table_name_the_same() {
        let packages = [
            package("types", &[]),
            package("net", &[]),
            package("fs", &[]),
        ];
        assert_eq!(
            messages(TABLE, &packages),
            [
                "crate `fs` is not in docs/layers.toml",
                "docs/layers.toml names the crate `vm`, which does not exist"
            ]
        );
    }

    #[test]
    fn development_dependencies_are_free() {
        let metadata = serde_json::json!({"packages": [{"name": "cofferdam-net", "dependencies": [
            {"name": "cofferdam-types", "kind": null}, {"name": "cofferdam-testkit", "kind": "dev"}
        ]}]});
        let packages = packages(&metadata).unwrap();
        assert_eq!(packages[0].name, "net");
        assert_eq!(packages[0].dependencies, ["types"]);
    }
}
