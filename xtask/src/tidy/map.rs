//! ARCHITECTURE.md's map of crates names every crate that exists and no other.

use std::collections::BTreeSet;

use super::{Finding, Source, layers::Package};

/// The file with the map.
const FILE: &str = "ARCHITECTURE.md";

/// Checks the map: the table whose head has a column `crate`.
pub(super) fn check(files: &[Source], packages: &[Package]) -> Vec<Finding> {
    let Some(file) = files.iter().find(|file| file.path == FILE) else {
        return vec![Finding::error(FILE, "does not exist")];
    };
    let mapped = crates_in(&file.text);
    let real: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let missing = real
        .difference(&mapped)
        .map(|name| format!("does not name the crate `{name}`"));
    let dead = mapped
        .difference(&real)
        .map(|name| format!("names `{name}`, which is no crate"));
    missing
        .chain(dead)
        .map(|message| Finding::error(FILE, message))
        .collect()
}

/// The names in backticks in the column `crate` of the first table that has one.
fn crates_in(text: &str) -> BTreeSet<&str> {
    let mut lines = text.lines().skip_while(|line| column(line).is_none());
    let Some(column) = lines.next().and_then(column) else {
        return BTreeSet::new();
    };
    lines
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| cells(line).nth(column))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

/// The index of the column `crate` if `line` is a table's head with one.
fn column(line: &str) -> Option<usize> {
    let mut cells = line.starts_with('|').then(|| cells(line))?;
    cells.position(|cell| cell.eq_ignore_ascii_case("crate"))
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.trim().trim_matches('|').split('|').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_crate_column_only() {
        let text = "`no`\n\n| layer | crate | holds |\n|---|---|---|\n| 0 | `types` | `u8` |\n\
                    | 4 | `native`, `qemu` | x |\n\n| a |\n|---|\n| `other` |\n";
        assert_eq!(crates_in(text), BTreeSet::from(["native", "qemu", "types"]));
    }

    #[test]
    fn a_missing_map_is_found() {
        assert_eq!(check(&[], &[]), [Finding::error(FILE, "does not exist")]);
    }
}
