//! No two siblings of a crate use each other, in whatever roundabout way.
//!
//! Siblings are the files and folders of one folder; a folder uses what its files use. A module and
//! the one above it may use each other: the one above is the front of the ones below. For some
//! crates docs/layers.toml has the order of their parts, and then a part uses earlier ones only.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Finding, Source,
    layers::Table,
    modules::{self, Module},
};

/// The siblings that each sibling uses, with one example for each.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// Checks every folder of every crate.
pub(super) fn check(table: &Table, files: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (root, modules) in modules::of(files) {
        let folders = folders(&modules);
        for (folder, graph) in &folders {
            let place = place(&root, folder);
            findings.extend(cycle(graph).map(|cycle| {
                let message = format!("has parts that use each other: {}", cycle.join(", "));
                Finding::error(&place, message)
            }));
        }
        let top = folders.get(&Module::new());
        if let (Some(order), Some(graph)) = (order_of(table, &root), top) {
            findings.extend(out_of_order(&root, order, graph));
        }
    }
    findings
}

fn place(root: &str, folder: &Module) -> String {
    let mut place = root.to_owned();
    for name in folder {
        place = format!("{place}/{name}");
    }
    place
}

fn order_of<'a>(table: &'a Table, root: &str) -> Option<&'a Vec<String>> {
    let name = root.strip_prefix("crates/")?.strip_suffix("/src")?;
    table.parts.get(name)
}

/// The graph of siblings of each folder.
fn folders(modules: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, Graph> {
    let mut folders: BTreeMap<Module, Graph> = BTreeMap::new();
    for (module, used) in modules {
        for other in used {
            let common = module.iter().zip(other).take_while(|(a, b)| a == b);
            let common = common.count();
            if let (Some(from), Some(to)) = (module.get(common), other.get(common)) {
                let example = format!("{} uses {}", module.join("/"), other.join("/"));
                let graph = folders.entry(module[..common].to_vec()).or_default();
                let edges = graph.entry(from.clone()).or_default();
                edges.entry(to.clone()).or_insert(example);
            }
        }
    }
    folders
}

/// A shortest cycle, as the uses that make it; none where there is none.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
    let cycles = graph.keys().filter_map(|start| cycle_from(graph, start));
    cycles.min_by_key(Vec::len)
}

/// A shortest way from `start` back to it, found breadth first.
fn cycle_from(graph: &Graph, start: &str) -> Option<Vec<String>> {
    let mut ways: BTreeMap<&str, Vec<String>> = BTreeMap::from([(start, Vec::new())]);
    let mut next = vec![start];
    while !next.is_empty() {
        let mut after = Vec::new();
        for from in next {
            for (to, example) in graph.get(from).into_iter().flatten() {
                let mut way = ways[from].clone();
                way.push(example.clone());
                if to == start {
                    return Some(way);
                }
                if !ways.contains_key(to.as_str()) {
                    ways.insert(to, way);
                    after.push(to.as_str());
                }
            }
        }
        next = after;
    }
    None
}

fn out_of_order(root: &str, order: &[String], graph: &Graph) -> Vec<Finding> {
    let position = |name: &str| order.iter().position(|part| part == name);
    let mut findings = Vec::new();
    for (from, edges) in graph {
        let Some(here) = position(from) else {
            let message = format!("docs/layers.toml does not name the part `{from}`");
            findings.push(Finding::error(root, message));
            continue;
        };
        for (to, example) in edges {
            if position(to).is_none_or(|there| there >= here) {
                let message = format!("{example}, and `{to}` is no earlier part than `{from}`");
                findings.push(Finding::error(root, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "unsafe = []\n[crate]\n[external]\n[parts]\ny = [\"a\", \"b\"]\n";

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let source = |(path, text): &(&str, &str)| Source {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        let files: Vec<Source> = files.iter().map(source).collect();
        let findings = check(&Table::parse(TABLE).unwrap(), &files);
        let line = |finding: &Finding| format!("{}: {}", finding.place, finding.message);
        findings.iter().map(line).collect()
    }

    #[test]
    fn a_row_of_siblings_passes_and_a_module_may_use_the_one_above() {
        let files = [
            ("crates/x/src/a.rs", ""),
            ("crates/x/src/b/mod.rs", "mod c; use crate::a::A;"),
            ("crates/x/src/b/c.rs", "use super::B; use crate::a::A;"),
        ];
        assert_eq!(findings(&files), [""; 0]);
    }

    #[test]
    fn folders_that_use_each_other_are_found() {
        let files = [
            ("crates/x/src/a/mod.rs", "mod d;"),
            ("crates/x/src/a/d.rs", "use crate::b::c::C;"),
            ("crates/x/src/b/mod.rs", "mod c;"),
            ("crates/x/src/b/c.rs", "fn f() { crate::a::g() }"),
        ];
        assert_eq!(
            findings(&files),
            ["crates/x/src: has parts that use each other: a/d uses b/c, b/c uses a"]
        );
    }

    #[test]
    fn files_of_a_deeper_folder_are_siblings_too() {
        let files = [
            ("crates/x/src/a/mod.rs", ""),
            ("crates/x/src/a/b.rs", "use super::c::C;"),
            ("crates/x/src/a/c.rs", "use super::d::D;"),
            ("crates/x/src/a/d.rs", "use super::b::B;"),
        ];
        let found = findings(&files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("crates/x/src/a: "), "{found:?}");
    }

    #[test]
    fn an_order_of_parts_is_kept() {
        let files = [
            ("crates/y/src/a.rs", "use crate::b::B;"),
            ("crates/y/src/b.rs", ""),
            ("crates/y/src/e.rs", "use crate::a::A;"),
        ];
        let expected = [
            "crates/y/src: a uses b, and `b` is no earlier part than `a`",
            "crates/y/src: docs/layers.toml does not name the part `e`",
        ];
        assert_eq!(findings(&files), expected);
    }
}
