//! What the tests of pauses, forks and snapshots share: workloads that can tell one moment from
//! another, and snapshots that go when their test ends.
//!
//! A guest and its copy have in common what happened before the moment of the copy, and nothing
//! after it: so the first entry of a journal that only one of them has is the first thing that it
//! did after its return.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    coffer::{Coffer, Sleeper},
    sandboxes::until,
};

/// Writes the wall clock to `/stamps`, as fast as it can: seconds and microseconds on two lines.
pub const STAMP: &str = "while :; do busybox adjtimex | grep -F time.tv_; done > /stamps";

/// Most by which a guest's clock may be wrong.
const CLOCK_ERROR: Duration = Duration::from_millis(50);

/// A snapshot of a test, gone when that ends.
#[derive(Debug)]
pub struct Snapshot<'a> {
    coffer: &'a Coffer,
    /// Its id.
    pub id: String,
}

impl<'a> Snapshot<'a> {
    /// Takes a snapshot of a sandbox, with more arguments of `snapshot create`.
    ///
    /// # Panics
    /// When none can be taken.
    #[must_use]
    pub fn of(coffer: &'a Coffer, sandbox: &str, args: &[&str]) -> Self {
        let create = ["snapshot", "create"].iter().chain(args).copied();
        let id = coffer.ok(create.chain([sandbox]));
        Self { coffer, id }
    }

    /// The snapshot of an id, gone at the end of the test.
    #[must_use]
    pub const fn keep(coffer: &'a Coffer, id: String) -> Self {
        Self { coffer, id }
    }

    /// Forks it, with more arguments of `fork`; the fork goes at the end of the test.
    ///
    /// # Panics
    /// When it cannot be forked.
    #[must_use]
    pub fn fork(&self, args: &[&str]) -> Sleeper<'a> {
        let fork = ["fork"].iter().chain(args).copied();
        self.coffer
            .keep(self.coffer.ok(fork.chain([self.id.as_str()])))
    }

    /// What `snapshot inspect` says of it.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn inspect(&self) -> Value {
        self.coffer.json(["snapshot", "inspect", &self.id])[0].take()
    }

    /// One of its files in the store.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.coffer
            .home()
            .join("snapshots")
            .join(&self.id)
            .join(name)
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        self.coffer.run(["snapshot", "rm", &self.id]);
    }
}

/// Turns every bit of one byte of a file.
///
/// # Panics
/// When the file has no such byte.
pub fn damage(path: &Path, at: u64) {
    let mut byte = [0];
    let file = File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.read_exact_at(&mut byte, at).expect("it has that byte");
    file.write_all_at(&[!byte[0]], at).expect("it is writable");
}

/// The host's wall clock since the Unix epoch.
///
/// # Panics
/// When it is before that.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later than 1970")
}

/// The whole lines of a file in a sandbox; none if there is no such file yet.
///
/// # Panics
/// When the sandbox cannot be asked.
#[must_use]
pub fn journal(sandbox: &Sleeper<'_>, path: &str) -> Vec<String> {
    let done = sandbox.exec(&["sh", "-c", &format!("test ! -e {path} || cat {path}")]);
    assert_eq!(done.code, 0, "{done:?}");
    let text = String::from_utf8(done.stdout).expect("it is text");
    // The last line may be under way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// What [`STAMP`] has written.
///
/// # Panics
/// When there is something else.
fn stamps(sandbox: &Sleeper<'_>) -> Vec<Duration> {
    let lines = journal(sandbox, "/stamps");
    let numbers: Vec<u64> = lines.iter().map(|line| stamp(line)).collect();
    let pairs = numbers.chunks_exact(2);
    pairs
        .map(|pair| Duration::from_secs(pair[0]) + Duration::from_micros(pair[1]))
        .collect()
}

/// What [`STAMP`] has written once it has stamped a time after `moment`. What was stamped before the
/// moment of a copy and not yet written down then is written by both, so only journals that have
/// gone on tell what they have in common.
///
/// # Panics
/// When that does not come.
pub fn stamps_after(sandbox: &Sleeper<'_>, moment: Duration) -> Vec<Duration> {
    let mut seen = Vec::new();
    until("stamps", || {
        seen = stamps(sandbox);
        seen.last().is_some_and(|stamp| *stamp > moment)
    });
    seen
}

fn stamp(line: &str) -> u64 {
    let number = line.rsplit(' ').next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("`{line}` is no stamp"))
}

/// The first entry of a journal that its copy does not have.
///
/// # Panics
/// When they have nothing in common, or when ours has no entry of its own.
pub fn first_of_its_own<T: PartialEq + Copy>(ours: &[T], theirs: &[T]) -> T {
    let common = common(ours, theirs);
    assert!(common > 0, "they have nothing in common");
    *ours.get(common).expect("it has gone on")
}

/// How many entries two journals have in common.
#[must_use]
pub fn common<T: PartialEq>(ours: &[T], theirs: &[T]) -> usize {
    ours.iter().zip(theirs).take_while(|(a, b)| a == b).count()
}

/// Fails unless a guest that looked at its clock between `from` and `to` saw the right time.
///
/// # Panics
/// When it did not.
pub fn assert_right(seen: Duration, from: Duration, to: Duration) {
    assert!(
        seen + CLOCK_ERROR >= from && seen <= to + CLOCK_ERROR,
        "{seen:?} is not within {from:?} and {to:?}"
    );
}

/// The directory of the sockets that a supervisor listens on.
///
/// # Panics
/// When it listens on none.
#[must_use]
pub fn sockets_of(supervisor: i32) -> PathBuf {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{supervisor}/fd"))
        .expect("it lives")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect();
    // Number, reference count, protocol, flags, type, state, inode, path; unix(7).
    let table = std::fs::read_to_string("/proc/net/unix").expect("it can be read");
    let path = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let path = fields.get(7)?;
        inodes
            .iter()
            .any(|inode| inode == fields[6])
            .then_some(*path)
    });
    let path = PathBuf::from(path.expect("a supervisor listens"));
    path.parent().expect("it is a file").to_owned()
}
