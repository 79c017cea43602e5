//! What `coffer` prints: lines, tables, JSON, errors. A reader that goes away ends it quietly.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::OnceLock,
    time::Duration,
};

use cofferdam::Error;
use serde::Serialize;

/// Why standard output could not be written, if that is not for want of a reader.
static FAILURE: OnceLock<String> = OnceLock::new();

/// Prints a line on standard output; false when that cannot be written any more.
pub(crate) fn line(text: impl Display) -> bool {
    written(&writeln!(io::stdout().lock(), "{text}"))
}

/// Prints bytes on standard output at once; false when that cannot be written any more.
pub(crate) fn bytes(bytes: &[u8]) -> bool {
    let mut stdout = io::stdout().lock();
    written(&stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Notes whether others could write to standard output, for [`failure`].
pub(crate) fn note_written(result: &io::Result<()>) {
    written(result);
}

fn written(result: &io::Result<()>) -> bool {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // The first reason is the one to tell.
        let _ = FAILURE.set(error.to_string());
    }
    result.is_ok()
}

/// Why a line was lost, unless its reader went away, which ends us quietly.
pub(crate) fn failure() -> Option<&'static str> {
    // What stands in the buffer goes out when the process ends, too late to tell of it.
    written(&io::stdout().lock().flush());
    FAILURE.get().map(String::as_str)
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

/// Prints how long a stage took, on standard error.
pub(crate) fn stage(took: Duration, name: &str) {
    let micros = took.as_micros();
    let millis = format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    note(format_args!("{millis:>12}  {name}"));
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

/// Prints one sentence about what was left out or passed over.
pub(crate) fn warning_line(text: &str) {
    note(format_args!("warning: {}", printable(text)));
}

/// Prints an error that does not keep a command from the rest of its work.
pub(crate) fn warning(error: &Error) {
    note(format_args!("warning: {}", printable(&error.chain())));
    if let Some(hint) = error.hint_text() {
        note(format_args!("  hint: {}", printable(hint)));
    }
}

/// Text of a guest or registry without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            // Bidirectional controls reorder what stands around them: Unicode UAX #9.
            let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if (c.is_control() && c != '\t') || reorders {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Prints a table: columns as wide as their longest cell, three blanks apart, as Docker does.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> bool {
    bytes(render_table(header, rows).as_bytes())
}

fn render_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let lines = || std::iter::once(header.as_slice()).chain(rows.iter().map(Vec::as_slice));
    let width = |column: usize| {
        let cells = lines().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for cells in lines() {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// A size in Docker's form: three digits and a decimal unit, such as `4.27MB`.
/// Source: docker/go-units, HumanSizeWithPrecision.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    // `unit_bytes` never passes 10^18: 64 bits end in the exabytes.
    let (mut unit, mut unit_bytes) = (0, 1000_u64);
    while bytes / unit_bytes >= 1000 {
        unit += 1;
        unit_bytes *= 1000;
    }
    let whole = bytes / unit_bytes;
    let decimals = match whole {
        0..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    let step = unit_bytes / 10_u64.pow(decimals);
    let rounded = (bytes % unit_bytes + step / 2) / step;
    let (whole, fraction) = match rounded.checked_sub(10_u64.pow(decimals)) {
        Some(rest) => (whole + 1, rest),
        None => (whole, rounded),
    };
    let digits = format!("{fraction:0width$}", width = decimals as usize);
    let fraction = digits.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{whole}{point}{fraction}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_decimal_units() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_270_000, "4.27MB"),
            (12_345_678, "12.3MB"),
            (9_999_999, "10MB"),
            (187_000_000, "187MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_has_no_blanks_at_line_ends() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned(), String::new()]];
        let text = render_table(&["ID", "NAME", "X"], &rows);
        assert_eq!(text, "ID   NAME        X\na    long cell\n");
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\tc"), "a\u{fffd}[31mb\tc");
    }
}
