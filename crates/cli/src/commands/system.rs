//! `system df`.

use cofferdam::{Coffer, DiskUsage, Result, UsageClass};
use serde_json::json;

use crate::{
    args::{DfArgs, SystemVerb},
    exit_status::ExitStatus,
    format::{Format, Row, print_rows},
    output,
};

/// How much of an id a row shows, in characters.
const ID_CHARS: usize = 12;

/// Does what `system` is to do.
pub(crate) fn system(coffer: &Coffer, verb: &SystemVerb, verbose: bool) -> ExitStatus {
    let result = match verb {
        SystemVerb::Df(args) => df(coffer, args, args.each || verbose),
        // Done by their shorter names.
        SystemVerb::Events(_) | SystemVerb::Info(_) | SystemVerb::Prune(_) => Ok(()),
    };
    result.into()
}

fn df(coffer: &Coffer, args: &DfArgs, each: bool) -> Result<()> {
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    let usage = coffer.disk_usage()?;
    match format {
        Format::Json => drop(output::json(&usage)),
        Format::Rows { template, header } => {
            let rows: Vec<Row> = kinds(&usage).into_iter().map(fields).collect();
            print_rows(&template, header, TITLES, &rows)?;
        }
        Format::Table if each => show_each(&usage),
        Format::Table => show(&usage),
    }
    Ok(())
}

/// Headers that are not the field's name.
const TITLES: &[(&str, &str)] = &[("TotalCount", "TOTAL")];

/// A kind by the names that Docker gives its parts.
fn fields((name, class): (&str, &UsageClass)) -> Row {
    let fields = json!({
        "Type": name,
        "TotalCount": class.total().to_string(),
        "Active": class.active().to_string(),
        "Size": output::size(class.size_bytes),
        "Reclaimable": reclaimable(class),
    });
    Row {
        fields,
        labels: None,
    }
}

/// The kinds as they are shown, with their names.
fn kinds(usage: &DiskUsage) -> [(&'static str, &UsageClass); 5] {
    [
        ("Images", &usage.images),
        ("Sandboxes", &usage.sandboxes),
        ("Templates", &usage.templates),
        ("Snapshots", &usage.snapshots),
        ("Pools", &usage.pools),
    ]
}

fn show(usage: &DiskUsage) {
    let row = |(name, class): (&str, &UsageClass)| {
        vec![
            name.to_owned(),
            class.total().to_string(),
            class.active().to_string(),
            output::size(class.size_bytes),
            reclaimable(class),
        ]
    };
    let mut rows: Vec<_> = kinds(usage).into_iter().map(row).collect();
    for (name, bytes) in [
        ("Cache", usage.cache_bytes),
        ("Deleted, still open", usage.held_open_bytes),
    ] {
        let none = || "-".to_owned();
        rows.push(vec![
            name.to_owned(),
            none(),
            none(),
            output::size(bytes),
            none(),
        ]);
    }
    output::table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows);
    output::line(format_args!("\nTemplates may take {}", limit(usage)));
}

/// What can be freed, with its share, as Docker shows it.
fn reclaimable(class: &UsageClass) -> String {
    let bytes = output::size(class.reclaimable_bytes);
    // A whole that is empty has no share.
    match class
        .reclaimable_bytes
        .saturating_mul(100)
        .checked_div(class.size_bytes)
    {
        Some(percent) => format!("{bytes} ({percent}%)"),
        None => bytes,
    }
}

fn limit(usage: &DiskUsage) -> String {
    usage.templates_limit_bytes.map_or_else(
        || "any room (COFFER_TEMPLATES_LIMIT=0)".to_owned(),
        |bytes| format!("{} (COFFER_TEMPLATES_LIMIT)", output::size(bytes)),
    )
}

fn show_each(usage: &DiskUsage) {
    for (name, class) in kinds(usage) {
        output::line(format_args!("{name}: {}", output::size(class.size_bytes)));
        let row = |item: &cofferdam::UsageItem| {
            let id = item.id.strip_prefix("sha256:").unwrap_or(&item.id);
            vec![
                id.chars().take(ID_CHARS).collect(),
                output::printable(&item.name),
                output::size(item.size_bytes),
                yes(item.active),
                yes(item.reclaimable),
            ]
        };
        let rows: Vec<_> = class.items.iter().map(row).collect();
        output::table(&["ID", "NAME", "SIZE", "ACTIVE", "RECLAIMABLE"], &rows);
        output::line("");
    }
    output::line(format_args!("Cache: {}", output::size(usage.cache_bytes)));
    let open = output::size(usage.held_open_bytes);
    output::line(format_args!("Deleted, still open: {open}"));
    output::line(format_args!("Templates may take {}", limit(usage)));
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_freed_has_its_share() {
        let class = |size_bytes, reclaimable_bytes| UsageClass {
            size_bytes,
            reclaimable_bytes,
            items: Vec::new(),
        };
        assert_eq!(reclaimable(&class(2000, 1000)), "1kB (50%)");
        assert_eq!(reclaimable(&class(0, 0)), "0B");
    }
}
