//! Exported snapshots in tests: made, imported, refused.

use crate::{
    coffer::{Coffer, Finished, Sleeper},
    copies::Snapshot,
};

/// The export of a full snapshot, of a sandbox with a file in its memory and one on its disk. The
/// sandbox and the snapshot are gone.
#[derive(Debug)]
pub struct Export {
    /// The snapshot's id.
    pub id: String,
    /// What `snapshot export` wrote.
    pub bytes: Vec<u8>,
}

impl Export {
    /// Makes one, with more arguments of `snapshot create`.
    ///
    /// # Panics
    /// When a step fails.
    #[must_use]
    pub fn make(coffer: &Coffer, args: &[&str]) -> Self {
        let sandbox = coffer.sleeper();
        write_content(&sandbox);
        let snapshot = Snapshot::of(coffer, &sandbox.id, args);
        let exported = coffer.run(["snapshot", "export", "-q", &snapshot.id]);
        assert_eq!(exported.code, 0, "{}", exported.stderr);
        Self {
            id: snapshot.id.clone(),
            bytes: exported.stdout,
        }
    }
}

/// Writes a file to a sandbox's memory and one to its disk.
///
/// # Panics
/// When it cannot.
pub fn write_content(sandbox: &Sleeper<'_>) {
    sandbox.sh("seq 20000 > /dev/shm/memory; seq 10000 > /disk");
}

/// Fails unless a sandbox has what [`write_content`] wrote.
///
/// # Panics
/// When it has something else.
pub fn expect_content(sandbox: &Sleeper<'_>) {
    for (path, count) in [("/dev/shm/memory", 20_000), ("/disk", 10_000)] {
        let same = format!("seq {count} | md5sum; md5sum < {path}");
        let sums = sandbox.sh(&same);
        let (wanted, found) = sums.split_once('\n').expect("two sums");
        assert_eq!(found, wanted, "{path}");
    }
}

/// Imports an export, with more arguments of `snapshot import`.
///
/// # Panics
/// When it takes longer than two minutes.
pub fn import(coffer: &Coffer, bytes: &[u8], args: &[&str]) -> Finished {
    coffer.run_with_input(["snapshot", "import", "-q"].iter().chain(args), bytes)
}

/// Imports what must not come in: an error with all of `words`, and nothing left behind in a
/// store without snapshots.
///
/// # Panics
/// When it does anything else; `about` is what it was.
pub fn reject(coffer: &Coffer, bytes: &[u8], about: &str, words: &[&str]) {
    let done = import(coffer, bytes, &[]);
    assert_eq!(
        (done.code, done.text().as_str()),
        (1, ""),
        "{about}: {done:?}"
    );
    assert!(done.stderr.starts_with("error: "), "{about}: {done:?}");
    for word in words {
        assert!(done.stderr.contains(word), "{about}: `{word}`: {done:?}");
    }
    assert_eq!(coffer.entries("snapshots"), [""; 0], "{about}");
}
