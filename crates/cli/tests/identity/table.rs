//! The table of `docs/fork-correctness.md` names tests that exist.

use std::{fs, path::Path};

#[test]
fn every_test_that_the_hazard_table_names_is_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let text = fs::read_to_string(docs.join("fork-correctness.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let headings = ["| hazard |", "| runtime |"];
    for row in rows.filter(|row| !headings.iter().any(|heading| row.starts_with(heading))) {
        let named: Vec<_> = row.split("[`").skip(1).collect();
        // What no test of ours can show says so itself.
        let admitted = row.contains("by hand") || row.contains("pending");
        assert!(admitted || !named.is_empty(), "no test in: {row}");
        for named in named {
            let (test, rest) = named.split_once("`](").unwrap();
            let (path, _) = rest.split_once(')').unwrap();
            let source = fs::read_to_string(docs.join(path)).unwrap();
            assert!(source.contains(&format!("fn {test}(")), "{test} in {path}");
        }
    }
}
