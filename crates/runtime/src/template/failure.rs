//! Templates that could not be made: kept for a while, so that no start tries in vain what the
//! last one tried, and so that people can see why.
//!
//! ```text
//! templates/<key>.failed   JSON; gone when the template was made
//! ```

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cofferdam_base::{fs, time::unix_time_ns};
use serde::{Deserialize, Serialize};

use super::TemplateKind;
use crate::{
    base::error::{Error, ErrorKind, from_remote, to_remote},
    store::layout::Layout,
};

/// For how long a failure is believed. What was in the way may go: a QEMU is replaced, a host comes
/// to rest.
const BELIEVED: Duration = Duration::from_secs(300);

/// The same for a failure of the guest, such as timers that a busy host let it set wrong.
const GUEST_BELIEVED: Duration = Duration::from_secs(30);

/// One sentence with its causes.
const MAX_BYTES: u64 = 64 << 10;

const EXTENSION: &str = "failed";

/// A template that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MissingTemplate {
    pub(crate) what: TemplateKind,
    /// Kind, sentence and hint of the failure.
    kind: String,
    message: String,
    hint: Option<String>,
    /// When it failed, in nanoseconds since the Unix epoch.
    at_ns: u64,
}

impl MissingTemplate {
    /// Why it could not be made.
    pub(crate) fn error(&self) -> Error {
        from_remote(&cofferdam_proto::RemoteFailure {
            kind: self.kind.clone(),
            message: self.message.clone(),
            hint: self.hint.clone(),
        })
    }

    /// Whether a new attempt is due. A clock that was set back is as good as a long time.
    fn is_old(&self) -> bool {
        let age = unix_time_ns().checked_sub(self.at_ns);
        let believed = match ErrorKind::from_name(&self.kind) {
            ErrorKind::GuestFailed => GUEST_BELIEVED,
            _ => BELIEVED,
        };
        age.is_none_or(|age| Duration::from_nanos(age) > believed)
    }
}

/// Keeps why a template could not be made. A full disk or memory is not kept: that is seen anew by
/// each start.
pub(super) fn keep(layout: &Layout, key: &str, what: TemplateKind, error: &Error) {
    if matches!(
        error.kind(),
        ErrorKind::NoSpace | ErrorKind::NoMemory | ErrorKind::Cancelled
    ) {
        return;
    }
    let failure = to_remote(error);
    let missing = MissingTemplate {
        what,
        kind: failure.kind,
        message: failure.message,
        hint: failure.hint,
        at_ns: unix_time_ns(),
    };
    // Without it the next start tries again, and no more.
    let _ = fs::publish_json(&path(layout, key), &missing, false);
}

/// Forgets it: the template is there.
pub(super) fn forget(layout: &Layout, key: &str) {
    // What is left is believed for minutes only.
    let _ = fs::remove_file_if_present(&path(layout, key));
}

/// Why the template of a key could not be made a short time ago.
pub(crate) fn recent(layout: &Layout, key: &str) -> Option<MissingTemplate> {
    read(&path(layout, key)).filter(|missing| !missing.is_old())
}

/// Every template that could not be made a short time ago; older failures are removed.
pub(crate) fn all_recent(layout: &Layout) -> Vec<MissingTemplate> {
    let entries = std::fs::read_dir(layout.templates()).into_iter().flatten();
    let mut all = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path
            .extension()
            .is_none_or(|extension| extension != EXTENSION)
        {
            continue;
        }
        match read(&path).filter(|missing| !missing.is_old()) {
            Some(missing) => all.push(missing),
            None => drop(fs::remove_file_if_present(&path)),
        }
    }
    all
}

fn read(path: &Path) -> Option<MissingTemplate> {
    fs::read_json(path, MAX_BYTES).ok()
}

fn path(layout: &Layout, key: &str) -> PathBuf {
    layout.templates().join(format!("{key}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_believed_for_a_while_or_until_the_template_is_there() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::at(home.path()).unwrap();
        let error = Error::new(ErrorKind::StartFailed, "QEMU refused `migrate`").hint("Another");
        keep(&layout, "a", TemplateKind::Base, &error);
        let kept = recent(&layout, "a").unwrap();
        assert_eq!(kept.error().to_string(), "QEMU refused `migrate`");
        assert_eq!(all_recent(&layout), std::slice::from_ref(&kept));
        assert!(recent(&layout, "b").is_none());
        let old = MissingTemplate { at_ns: 1, ..kept };
        fs::publish_json(&path(&layout, "a"), &old, false).unwrap();
        assert!(recent(&layout, "a").is_none());
        assert!(all_recent(&layout).is_empty());
        assert!(!path(&layout, "a").exists());
        keep(&layout, "a", TemplateKind::Base, &error);
        forget(&layout, "a");
        assert!(recent(&layout, "a").is_none());
    }

    #[test]
    fn a_full_disk_is_not_kept() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::at(home.path()).unwrap();
        let full = Error::new(ErrorKind::NoSpace, "Full");
        keep(&layout, "a", TemplateKind::Image, &full);
        assert!(recent(&layout, "a").is_none());
    }
}
