//! The templates that a store has.

use super::{FORMAT_VERSION, Template};
use crate::{
    base::error::{Result, io},
    host::guest,
    store::layout::Layout,
};

/// Every template that can be used.
///
/// # Errors
/// The file system's.
pub(super) fn templates(layout: &Layout) -> Result<Vec<Template>> {
    let dir = layout.templates();
    let entries = std::fs::read_dir(&dir)
        .map_err(|error| io(format!("Could not read `{}`", dir.display()), error))?;
    Ok(entries
        .filter_map(|entry| Template::at(&entry.ok()?.path()))
        .collect())
}

/// Removes templates that nothing can find any more: of another form, wire or agent than this
/// program's. Those of other kernels and backends stay: they are asked for by flags.
pub(super) fn drop_stale(layout: &Layout) {
    let ours = [
        format!("format {FORMAT_VERSION}"),
        format!("wire {}", cofferdam_proto::GENERATION),
    ];
    let stale = |template: &Template| {
        template.manifest().is_ok_and(|manifest| {
            let fits = |line: &String| manifest.about.contains(line);
            !ours.iter().all(fits)
                || !manifest
                    .about
                    .iter()
                    .any(|line| guest::is_of_this_agent(line))
        })
    };
    for template in templates(layout)
        .unwrap_or_default()
        .into_iter()
        .filter(stale)
    {
        // It is out of use in any case; what is left of it takes room and no more.
        let _ = template.remove();
    }
}
