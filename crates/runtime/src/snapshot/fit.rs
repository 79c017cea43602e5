//! Whether this host can continue the machine of a snapshot.
//!
//! See `host::compatibility` for the key that is compared.

use super::{Snapshots, bad};
use crate::{
    base::error::{Result, lift},
    host::{compatibility::machine_key, counter, guest},
    store::snapshot::SnapshotManifest,
};

impl Snapshots<'_> {
    /// Refuses a machine that this host could not continue, with what it has and this host lacks.
    pub(super) fn expect_same_machine(&self, manifest: &SnapshotManifest) -> Result<()> {
        let label = manifest.id.short();
        let hint = "Its disk alone goes everywhere: take it out with `--disk-only`";
        let layout = self.store.layout();
        let backend =
            crate::host::backend(layout, manifest.backend.as_deref()).map_err(|error| {
                bad(&label, "needs a backend that this host lacks")
                    .because(error)
                    .hint(hint)
            })?;
        let kernel = manifest.sandbox.spec.kernel.as_deref();
        // A program that uses the library has no agent; the supervisor compares what is left.
        let ours = match guest::has_agent() {
            true => machine_key(backend.as_ref(), &guest::find(layout, kernel)?)?,
            false => lift(backend.compatibility_key())?,
        };
        let theirs = manifest.compatibility.as_deref().unwrap_or_default();
        let fits = match guest::has_agent() {
            true => theirs == ours,
            false => theirs.starts_with(&ours),
        };
        let counter = counter::rate_khz(layout, backend.as_ref());
        if fits && !counter::fits(manifest.counter_khz, counter) {
            let of = |rate: Option<u32>| rate.map_or_else(String::new, |khz| format!("{khz} kHz"));
            let what = format!(
                "was taken on a processor whose counter runs at {}, and here it runs at {}",
                of(manifest.counter_khz),
                of(counter)
            );
            return Err(bad(&label, &what).hint(hint));
        }
        if fits {
            return Ok(());
        }
        let what = format!(
            "was taken of a machine that this host cannot continue: {}",
            differences(theirs, &ours)
        );
        Err(bad(&label, &what).hint(hint))
    }
}

/// The parts of two keys that differ, in words; a stranger's key is shown escaped.
fn differences(theirs: &str, ours: &str) -> String {
    fn part<'a>(key: &'a str, name: &str) -> Option<&'a str> {
        key.split("; ")
            .find_map(|part| part.strip_prefix(name)?.strip_prefix(' '))
    }
    let names = ours.split("; ").filter_map(|part| part.split(' ').next());
    let parts: Vec<String> = names
        .filter_map(|name| {
            let (its, here) = (part(theirs, name), part(ours, name)?);
            (its != Some(here)).then(|| {
                let its = its.unwrap_or("nothing known").escape_debug();
                format!("{name}: it has `{its}`, this host has `{here}`")
            })
        })
        .collect();
    if parts.is_empty() {
        let theirs = theirs.escape_debug();
        return format!("it has `{theirs}`, this host has `{ours}`");
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "backend qemu-tcg; QEMU 10.0.2 (Debian 1:10); kernel sha256:a; agent b";

    #[test]
    fn a_refusal_names_what_differs_on_both_sides_and_nothing_else() {
        let theirs = OURS.replace("10.0.2 (Debian 1:10)", "7.2.22");
        assert_eq!(
            differences(&theirs, OURS),
            "QEMU: it has `7.2.22`, this host has `10.0.2 (Debian 1:10)`"
        );
        let less = OURS.replace("; agent b", "");
        assert_eq!(
            differences(&less, OURS),
            "agent: it has `nothing known`, this host has `b`"
        );
    }

    #[test]
    fn a_key_of_another_form_is_shown_and_escaped() {
        let text = differences("qemu-tcg\u{1b}[31m 7.2", OURS);
        assert!(text.contains("backend: it has `nothing known`"), "{text}");
        let more = format!("{OURS}; more \u{1b}");
        let text = differences(&more, OURS);
        assert!(text.contains("more \\u{1b}"), "{text}");
    }
}
