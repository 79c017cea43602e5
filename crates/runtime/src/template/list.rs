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
    drop_locks(layout);
}

/// Removes the lock files of templates that are not there, and that nobody makes.
pub(super) fn drop_locks(layout: &Layout) {
    let entries = std::fs::read_dir(layout.templates()).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_lock = path
            .extension()
            .is_some_and(|extension| extension == "lock");
        if is_lock && Template::at(&path.with_extension("")).is_none() {
            // An empty file that stays is tried again by the next removal.
            let _ = cofferdam_base::LockFile::remove_if_free(&path);
        }
    }
}
