//! The results as a table, a page and JSON.

use anyhow::Result;
use serde_json::json;

use super::outcome::Outcome;

/// A Markdown table.
pub(crate) fn table(machine: &str, outcomes: &[Outcome]) -> String {
    let mut text = format!("{machine}\n\n");
    text.push_str("| what | median ms | min–max ms | peer | peer median ms | ratio | asked |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for outcome in outcomes {
        let ours = &outcome.ours;
        let (peer, median, ratio) = match &outcome.peer {
            Some((name, times, ratio)) => (
                (*name).to_owned(),
                format!("{:.0}", times.median_ms()),
                format!("{ratio:.2}"),
            ),
            None => ("–".to_owned(), "–".to_owned(), "–".to_owned()),
        };
        let note = if outcome.note.is_empty() {
            String::new()
        } else {
            format!(" ({})", outcome.note)
        };
        text.push_str(&format!(
            "| {}{note} | {:.0} | {:.0}–{:.0} | {peer} | {median} | {ratio} | {} |\n",
            outcome.name,
            ours.median_ms(),
            ours.min_ms(),
            ours.max_ms(),
            outcome.target
        ));
    }
    text
}

/// The page `docs/benchmarks.md`.
pub(crate) fn page(machine: &str, outcomes: &[Outcome]) -> String {
    format!(
        "# Benchmarks\n\nMade by `cargo xtask bench --write`. Whole commands, wall time, medians; where there is a\n\
         peer, the two run in turn and the ratio is the median of the pairs (below 1: Cofferdam is\n\
         faster). The machine is shared and noisy: trust ratios before times.\n\n{}\n\
         ![Medians by case](benchmarks.svg)\n",
        table(machine, outcomes)
    )
}

/// The same for programs.
///
/// # Errors
/// Never in practice: numbers and strings always encode.
pub(crate) fn json(machine: &str, outcomes: &[Outcome]) -> Result<String> {
    let cases: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            json!({
                "name": outcome.name,
                "asked": outcome.target,
                "note": outcome.note,
                "median_ms": outcome.ours.median_ms(),
                "min_ms": outcome.ours.min_ms(),
                "max_ms": outcome.ours.max_ms(),
                "peer": outcome.peer.as_ref().map(|(name, times, ratio)| json!({
                    "name": name,
                    "median_ms": times.median_ms(),
                    "ratio": ratio,
                })),
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&json!({"machine": machine, "cases": cases}))? + "\n")
}
