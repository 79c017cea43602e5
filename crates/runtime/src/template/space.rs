//! The room that templates take: which nothing needs, and how much all may have.
//!
//! Templates are made by themselves and each can be made again, so they may go at any time: a
//! sandbox that came from one holds its memory open, and the next start makes a new one.

use std::time::SystemTime;

use cofferdam_base::env_vars;
use cofferdam_types::ByteSize;

use super::{Template, list::templates};
use crate::{
    base::error::{Error, ErrorKind, Result},
    store::layout::Layout,
};

/// What all templates may take of the disk, in bytes, where `COFFER_TEMPLATES_LIMIT` does not say.
/// A template of an image takes 50 to 100 MiB.
const DEFAULT_LIMIT_BYTES: u64 = 4 << 30;

/// What all templates may take, in bytes; none without a limit.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] when the variable holds no size.
pub(crate) fn limit_bytes() -> Result<Option<u64>> {
    let Some(text) = env_vars::var(env_vars::TEMPLATES_LIMIT) else {
        return Ok(Some(DEFAULT_LIMIT_BYTES));
    };
    let size: ByteSize = text.parse().map_err(|error| {
        let what = format!("`{}` is no size", env_vars::TEMPLATES_LIMIT);
        Error::new(ErrorKind::InvalidSpec, what)
            .because(error)
            .hint("Set it to a size such as 8g, or to 0 for no limit")
    })?;
    Ok(Some(size.bytes()).filter(|bytes| *bytes != 0))
}

/// Removes the templates that were used least recently until the others keep within the limit.
/// The one of `kept` stays: it has just been made.
pub(super) fn keep_within_limit(layout: &Layout, kept: &Template) {
    match limit_bytes() {
        Ok(Some(limit)) => keep_within(layout, kept, limit),
        Ok(None) => {}
        Err(error) => crate::base::task::log_line(&error.chain()),
    }
}

fn keep_within(layout: &Layout, kept: &Template, limit: u64) {
    let mut all: Vec<_> = templates(layout)
        .unwrap_or_default()
        .into_iter()
        .map(|template| (template.last_used(), template))
        .collect();
    all.sort_by_key(|(used, _)| *used);
    let size = |template: &Template| template.disk_bytes().unwrap_or_default();
    let mut total: u64 = all.iter().map(|(_, template)| size(template)).sum();
    for (_, template) in all {
        if total <= limit {
            break;
        }
        if template.dir == kept.dir {
            continue;
        }
        let bytes = size(&template);
        // One that cannot go now is tried again by the next that is made.
        if template.remove().is_ok() {
            total -= bytes;
        }
    }
}

impl Template {
    /// Notes that a machine starts from it.
    pub(super) fn touch(&self) {
        // Without it the template looks older than it is, which is no harm.
        let _ = std::fs::File::open(self.dir.join("manifest.json"))
            .and_then(|file| file.set_modified(SystemTime::now()));
    }

    fn last_used(&self) -> Option<SystemTime> {
        let manifest = std::fs::metadata(self.dir.join("manifest.json"));
        manifest.and_then(|found| found.modified()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{MachineShape, Manifest, TemplateKind, state_digest};
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A template of about a mebibyte that was used `age_s` seconds ago.
    fn template(layout: &Layout, digit: &str, age_s: u64) -> Template {
        let dir = layout.templates().join(digit.repeat(64));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("memory"), vec![1; 1 << 20]).unwrap();
        std::fs::write(dir.join("state"), "state").unwrap();
        let shape = MachineShape {
            vcpus: 1,
            memory_mib: 1,
            root_bytes: 0,
            upper_bytes: 0,
            mtu: None,
        };
        let manifest = Manifest {
            state_digest: state_digest(&dir.join("state")).unwrap(),
            ..Manifest::new(TemplateKind::Base, Vec::new(), &shape)
        };
        let path = dir.join("manifest.json");
        std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
        let used = SystemTime::now() - Duration::from_secs(age_s);
        std::fs::File::open(path)
            .unwrap()
            .set_modified(used)
            .unwrap();
        Template { dir }
    }

    #[test]
    fn the_least_recently_used_go_when_all_pass_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::at(home.path()).unwrap();
        let [old, used, young] =
            [("a", 900), ("b", 800), ("c", 700)].map(|(digit, age)| template(&layout, digit, age));
        let newest = template(&layout, "d", 1000);
        keep_within(&layout, &newest, 5 * MIB);
        assert_eq!(templates(&layout).unwrap().len(), 4);
        // A start from a template makes it the last to go.
        assert!(Template::find(&layout, &"a".repeat(64)).is_some());
        keep_within(&layout, &newest, 2 * MIB + MIB / 2);
        assert!(old.dir.exists() && newest.dir.exists());
        assert!(!used.dir.exists() && !young.dir.exists());
        // The one that has just been made stays in any case.
        keep_within(&layout, &newest, 0);
        assert!(!old.dir.exists() && newest.dir.exists());
    }
}
