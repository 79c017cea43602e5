//! What tests ask of sandboxes, and sandboxes that go when their test ends.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::coffer::{BUSYBOX, Coffer, Finished, Sleeper};

/// How long a test waits for what must come: what runs at low priority on a busy host takes long.
const EVENT_LIMIT: Duration = Duration::from_secs(200);

impl Coffer {
    /// A detached sandbox of [`BUSYBOX`] whose workload is a shell script.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn script(&self, script: &str) -> Sleeper<'_> {
        self.detached(&[BUSYBOX, "sh", "-c", script])
    }

    /// A detached sandbox; `args` are those of `run`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn detached(&self, args: &[&str]) -> Sleeper<'_> {
        self.keep(self.ok(["run", "-d"].iter().chain(args)))
    }

    /// The sandbox of an id, gone at the end of the test.
    #[must_use]
    pub const fn keep(&self, id: String) -> Sleeper<'_> {
        Sleeper { coffer: self, id }
    }

    /// What a command that must succeed prints, as JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub fn json<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What `inspect` says of a sandbox.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn inspect(&self, sandbox: &str) -> Value {
        self.json(["inspect", sandbox])[0].take()
    }

    /// A sandbox's status.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn status(&self, sandbox: &str) -> String {
        let status = &self.inspect(sandbox)["status"];
        status.as_str().expect("status is text").to_owned()
    }

    /// Runs a command that must fail with exit code 1 and a sentence with all of `words`.
    ///
    /// # Panics
    /// When it does anything else.
    pub fn refused(&self, args: &[&str], words: &[&str]) -> Finished {
        let finished = self.run(args);
        assert_eq!(finished.code, 1, "{args:?}: {finished:?}");
        assert!(
            finished.stderr.starts_with("error: "),
            "{args:?}: {finished:?}"
        );
        for word in words {
            assert!(
                finished.stderr.contains(word),
                "`{word}` of {args:?}: {finished:?}"
            );
        }
        finished
    }

    /// Names of what is in one of the store's directories and is neither a lock nor a log, sorted.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn entries(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.home().join(directory)).expect("directory is there");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("directory can be read").file_name())
            .map(|name| name.into_string().expect("names are text"))
            .filter(|name| {
                let ends = |end: &str| name.ends_with(end);
                !ends("lock") && !ends(".log")
            })
            .collect();
        names.sort();
        names
    }
}

impl Sleeper<'_> {
    /// The output of a shell script in it that must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, script: &str) -> String {
        let finished = self.exec(&["sh", "-c", script]);
        assert_eq!(finished.code, 0, "{script}: {finished:?}");
        finished.text()
    }

    /// Starts a command in it and does not wait for its end, which may be its sandbox's too.
    ///
    /// # Panics
    /// When it does not start.
    pub fn send(&self, command: &[&str]) {
        self.coffer
            .ok(["exec", "-d", &self.id].iter().chain(command));
    }

    /// Forks it, with more arguments of `fork`; the fork goes at the end of the test.
    ///
    /// # Panics
    /// When it cannot be forked.
    #[must_use]
    pub fn fork(&self, args: &[&str]) -> Self {
        let fork = ["fork"].iter().chain(args).copied();
        let id = self.coffer.ok(fork.chain([self.id.as_str()]));
        self.coffer.keep(id)
    }

    /// What `inspect` says of it.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn inspect(&self) -> Value {
        self.coffer.inspect(&self.id)
    }

    /// Its status.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn status(&self) -> String {
        self.coffer.status(&self.id)
    }

    /// The process id of its supervisor.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn supervisor(&self) -> i32 {
        self.process("supervisor_pid")
    }

    /// The process id of its machine.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn machine(&self) -> i32 {
        self.process("machine_pid")
    }

    fn process(&self, field: &str) -> i32 {
        let info = self.inspect();
        let pid = info[field].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("no {field}: {info}"))
    }
}

/// Waits until `happened`, asking again and again.
///
/// # Panics
/// When it has not happened after [`EVENT_LIMIT`].
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happened() {
        assert!(began.elapsed() < EVENT_LIMIT, "never came: {what}");
    }
}

/// A place for a server that no other process has or gets: the kernel gives out other ports, and the
/// loopback's address is one of this process alone. A port that was free a moment ago may be
/// another test's by now.
#[must_use]
pub fn own_place() -> SocketAddr {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = 20_000 + CALLS.fetch_add(1, Ordering::Relaxed);
    // Process ids have 22 bits at most; proc_sys_kernel(5), `pid_max`.
    SocketAddr::from(([127, 64 | high, middle, low], port))
}

/// A name that no test before this one has left in the store that tests share.
#[must_use]
pub fn unique_name(of: &str) -> String {
    format!("{of}-{}", std::process::id())
}

/// Ends a process at once.
///
/// # Panics
/// When there is no such process.
pub fn kill(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).expect("process ids are positive");
    rustix::process::kill_process(process, rustix::process::Signal::KILL)
        .expect("process is there");
}

/// Stops a process where it is, as a terminal's Ctrl-Z does.
///
/// # Panics
/// When there is no such process.
pub fn freeze(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).expect("process ids are positive");
    rustix::process::kill_process(process, rustix::process::Signal::STOP)
        .expect("process is there");
}

/// Whether anything of a process is left but its exit status: while one of its threads still
/// dies, its files are open and locked.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which may hold anything; proc_pid_stat(5).
    let state = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    threads > 1 || !(state.is_empty() || state.starts_with(['Z', 'X']))
}
