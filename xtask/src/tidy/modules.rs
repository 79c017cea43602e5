//! The modules of a crate as its files name them: which module uses which.
//!
//! This reads text and no syntax tree: paths that begin with `crate`, `self` or `super`, in `use`
//! declarations and elsewhere. Comments and unit tests do not count. A path that a macro puts
//! together is not seen.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

/// A module's path below its crate's root; the root's is empty.
pub(super) type Module = Vec<String>;

/// The modules of each crate, by the folder of its sources, and the modules that each uses.
pub(super) type Crates = BTreeMap<String, BTreeMap<Module, BTreeSet<Module>>>;

/// Reads the modules of all crates.
pub(super) fn of(files: &[Source]) -> Crates {
    let mut sources: BTreeMap<String, BTreeMap<Module, String>> = BTreeMap::new();
    for file in files {
        if let Some((root, module)) = place(&file.path) {
            let text = without_tests_and_comments(&file.text);
            sources.entry(root).or_default().insert(module, text);
        }
    }
    let uses = |modules: &BTreeMap<Module, String>| {
        let used = |(module, text): (&Module, &String)| {
            let paths = paths(text).into_iter();
            let used = paths.filter_map(|path| resolve(modules, module, &path));
            (module.clone(), used.filter(|used| used != module).collect())
        };
        modules.iter().map(used).collect()
    };
    sources
        .iter()
        .map(|(root, modules)| (root.clone(), uses(modules)))
        .collect()
}

/// The folder of a crate's sources and the module that a file of it is.
fn place(path: &str) -> Option<(String, Module)> {
    let (root, rest) = path.split_once("/src/")?;
    let mut module: Module = rest
        .strip_suffix(".rs")?
        .split('/')
        .map(str::to_owned)
        .collect();
    if module
        .last()
        .is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main"))
    {
        module.pop();
    }
    if module.last().is_some_and(|name| name == "tests") {
        return None;
    }
    Some((format!("{root}/src"), module))
}

fn without_tests_and_comments(text: &str) -> String {
    let lines = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"));
    let code = lines.map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.collect::<Vec<_>>().join("\n")
}

/// Every path in a text, with the trees of `use` declarations taken apart.
fn paths(text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = ["crate::", "super::", "self::"]
        .iter()
        .filter_map(|head| rest.find(head))
        .min()
    {
        let before = rest[..start].chars().next_back();
        rest = &rest[start..];
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            rest = &rest[1..];
            continue;
        }
        let length = tree(rest, &Vec::new(), &mut found);
        rest = &rest[length.max(1)..];
    }
    found
}

/// Takes the tree at the start of `text` apart, below `above`; returns its length.
fn tree(text: &str, above: &Module, found: &mut Vec<Module>) -> usize {
    let mut path = above.clone();
    let mut at = 0;
    loop {
        at += space(&text[at..]);
        if text[at..].starts_with('{') {
            at += 1;
            loop {
                at += space(&text[at..]);
                match text[at..].chars().next() {
                    Some('}') => return at + 1,
                    Some(',') => at += 1,
                    Some(_) => at += tree(&text[at..], &path, found).max(1),
                    None => return at,
                }
            }
        }
        let name: String = text[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        at += name.len();
        if !name.is_empty() {
            path.push(name);
        }
        if !text[at..].starts_with("::") {
            found.push(path);
            // What `as` names in place of it.
            let rest = &text[at..];
            let length = rest.find([',', '}', ';', '\n']).unwrap_or(rest.len());
            return if above.is_empty() { at } else { at + length };
        }
        at += 2;
    }
}

fn space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// The module that a path in `module` means, or that has what it means.
fn resolve(modules: &BTreeMap<Module, String>, module: &Module, path: &Module) -> Option<Module> {
    let mut full = Module::new();
    let mut names = path.as_slice();
    if names.first()? == "crate" {
        names = &names[1..];
    } else {
        full.clone_from(module);
        while let Some((first, rest)) = names.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => drop(full.pop()?),
                _ => break,
            }
            names = rest;
        }
    }
    full.extend_from_slice(names);
    while !modules.contains_key(&full) {
        full.pop()?;
    }
    Some(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_in(text: &str) -> Vec<String> {
        let mut all: Vec<_> = paths(text).iter().map(|path| path.join("::")).collect();
        all.sort();
        all
    }

    #[test]
    fn trees_of_use_declarations_are_taken_apart() {
        let text = "use crate::{\n    a::{self, B, c::D as E},\n    f,\n};\nuse super::g::*;";
        let expected = [
            "crate::a::B",
            "crate::a::c::D",
            "crate::a::self",
            "crate::f",
            "super::g",
        ];
        assert_eq!(paths_in(text), expected);
    }

    #[test]
    fn paths_in_code_count_and_names_that_end_alike_do_not() {
        let text = "fn a() { crate::b::c(); mycrate::d::e(); self::f::<super::g::H>() }";
        assert_eq!(paths_in(text), ["crate::b::c", "self::f", "super::g::H"]);
    }

    #[test]
    fn a_path_means_the_deepest_module_that_there_is() {
        let source = |path: &str, text: &str| Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [
            source("crates/x/src/lib.rs", "mod a; mod b;"),
            source("crates/x/src/a/mod.rs", "// crate::b::no\nmod c;"),
            source(
                "crates/x/src/a/c.rs",
                "use crate::b::Type; use super::Other;",
            ),
            source(
                "crates/x/src/b.rs",
                "#[cfg(test)]\nmod tests { use crate::a::c; }",
            ),
            source("crates/x/tests/t.rs", "use crate::a;"),
        ];
        let crates = of(&files);
        let modules = &crates["crates/x/src"];
        let names = |module: &[&str]| {
            let module: Module = module.iter().map(|name| (*name).to_owned()).collect();
            let used = modules[&module].iter();
            used.map(|module| module.join("/")).collect::<Vec<_>>()
        };
        assert_eq!(names(&["a", "c"]), ["a", "b"]);
        assert_eq!(names(&["b"]), [""; 0]);
        assert_eq!(names(&["a"]), [""; 0]);
    }
}
