//! What `coffer` prints: lines, tables, JSON, errors. A reader that goes away ends it quietly.

use std::{
    fmt::Display,
    io::{self, Write},
};

use cofferdam::{ByteSize, Error};
use serde::Serialize;

/// Prints a line on standard output; false when nobody reads it any more.
pub(crate) fn line(text: impl Display) -> bool {
    writeln!(io::stdout().lock(), "{text}").is_ok()
}

/// Prints pretty JSON on standard output.
pub(crate) fn json(value: &impl Serialize) -> bool {
    serde_json::to_string_pretty(value).is_ok_and(line)
}

/// Prints a note on standard error.
pub(crate) fn note(text: impl Display) {
    // A closed standard error has nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints one sentence that went wrong.
pub(crate) fn error_line(text: &str) {
    note(format_args!("error: {}", printable(text)));
}

/// Prints an error with its hint apart.
pub(crate) fn error(error: &Error) {
    error_line(&error.chain());
    if let Some(hint) = error.hint_text() {
        note(format_args!("  hint: {}", printable(hint)));
    }
}

/// Text of a guest or registry without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Prints a table: columns as wide as their longest cell, three blanks apart, as Docker does.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> bool {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].len()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    line(render(&header)) && rows.iter().all(|row| line(render(row)))
}

/// How long ago a time was, in words: `3 minutes ago`.
pub(crate) fn ago(then_ns: u64, now_ns: u64) -> String {
    format!("{} ago", duration(now_ns.saturating_sub(then_ns)))
}

/// A duration in its largest unit, in words.
pub(crate) fn duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_use_their_largest_unit() {
        let seconds = |s: u64| duration(s * 1_000_000_000);
        assert_eq!(seconds(1), "1 second");
        assert_eq!(seconds(59), "59 seconds");
        assert_eq!(seconds(61), "1 minute");
        assert_eq!(seconds(7200), "2 hours");
        assert_eq!(seconds(200_000), "2 days");
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\tc"), "a\u{fffd}[31mb\tc");
    }
}
