//! Running the real `coffer` program in tests, with a store of the tests' own.
//!
//! Tests share one store for each build of the program and each QEMU, because a template takes
//! seconds to make under emulation; each uses sandbox names of its own. Tests that damage a store
//! take a private one.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::image::busybox_archive;

/// How long a command may take; the slowest boots a guest on a busy two-core host.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Name of the image that every store of the tests has.
pub const BUSYBOX: &str = "busybox:test";

/// The program with a store.
#[derive(Debug)]
pub struct Coffer {
    program: PathBuf,
    home: PathBuf,
    private: Option<tempfile::TempDir>,
}

/// What a command did.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; 128 + n if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error as text.
    pub stderr: String,
    /// Wall time.
    pub elapsed: Duration,
}

impl Coffer {
    /// The store that tests share, with [`BUSYBOX`] in it.
    ///
    /// # Panics
    /// When the program is not built or the image cannot be loaded.
    #[must_use]
    pub fn shared() -> Self {
        let program = program();
        // Another build may keep its store in another form.
        let stamp = fs::metadata(&program)
            .and_then(|m| m.modified())
            .expect("program is there");
        let built = stamp
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let target = program
            .parent()
            .and_then(Path::parent)
            .expect("program is below target");
        let home = target.join(format!("e2e/{built}{}", qemu_suffix()));
        fs::create_dir_all(&home).expect("target is writable");
        let coffer = Self {
            program,
            home,
            private: None,
        };
        let ready = coffer.home.join("busybox-is-loaded");
        let lock = cofferdam_base::LockFile::exclusive(&coffer.home.join("tests.lock"));
        if !ready.exists() {
            coffer.load_busybox();
            fs::write(ready, b"").expect("store is writable");
        }
        drop(lock);
        coffer
    }

    /// A store of this test alone, with [`BUSYBOX`] in it; it goes when the test ends.
    ///
    /// # Panics
    /// When the program is not built or the image cannot be loaded.
    #[must_use]
    pub fn private() -> Self {
        let coffer = Self::empty();
        coffer.load_busybox();
        coffer
    }

    /// A store of this test alone, without images.
    ///
    /// # Panics
    /// When the program is not built.
    #[must_use]
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Self {
            program: program(),
            home: dir.path().to_owned(),
            private: Some(dir),
        }
    }

    /// The store's directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The program with the store in its environment.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("COFFER_HOME", &self.home)
            .env_remove("COFFER_BACKEND")
            .env_remove("COFFER_KERNEL")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        finish(self.command(args), &[])
    }

    /// Runs a command to its end with this standard input.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Finished {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        finish(command, input)
    }

    /// Runs a command that must succeed, and returns its trimmed output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let finished = self.run(args);
        assert_eq!(finished.code, 0, "{finished:?}");
        finished.text()
    }

    /// A sandbox that sleeps, gone at the end of the test.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn sleeper(&self) -> Sleeper<'_> {
        let id = self.ok(["run", "-d", BUSYBOX, "sleep", "1000000"]);
        Sleeper { coffer: self, id }
    }

    fn load_busybox(&self) {
        let loaded = self.run_with_input(["load"], &busybox_archive(BUSYBOX));
        assert_eq!(loaded.code, 0, "{loaded:?}");
    }
}

impl Drop for Coffer {
    fn drop(&mut self) {
        if self.private.is_none() {
            return;
        }
        // A failed test may have left sandboxes behind; their machines must not outlive it.
        let ids = self.run(["ps", "-aq"]).text();
        for id in ids.lines() {
            self.run(["rm", "-f", id]);
        }
    }
}

/// A running sandbox of one test.
#[derive(Debug)]
pub struct Sleeper<'a> {
    pub(crate) coffer: &'a Coffer,
    /// Its id.
    pub id: String,
}

impl Sleeper<'_> {
    /// Runs a command in it.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    pub fn exec(&self, command: &[&str]) -> Finished {
        self.coffer.run(["exec", &self.id].iter().chain(command))
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.coffer.run(["rm", "-f", &self.id]);
    }
}

impl Finished {
    /// Standard output as trimmed text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Waits for a child with a limit, feeding and draining its pipes.
///
/// # Panics
/// When the limit passes; the child is killed first.
fn finish(mut command: Command, input: &[u8]) -> Finished {
    let begin = Instant::now();
    let shown = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // The child may end without reading it all.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let status = wait(child, &shown);
    Finished {
        code: status,
        stdout: stdout.recv().unwrap_or_default(),
        stderr: String::from_utf8_lossy(&stderr.recv().unwrap_or_default()).into_owned(),
        elapsed: begin.elapsed(),
    }
}

fn wait(mut child: Child, shown: &str) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let pid = child.id();
    let (ended, end) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        // The receiver gives up only by a panic.
        let _ = ended.send(());
        status
    });
    if end.recv_timeout(COMMAND_LIMIT).is_err() {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        panic!("{shown} took longer than {COMMAND_LIMIT:?}");
    }
    let status = waiter
        .join()
        .expect("waiting does not panic")
        .expect("child can be waited for");
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is what the test sees.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// What tells the store of a configured QEMU (`COFFER_QEMU`) from that of the usual one.
fn qemu_suffix() -> String {
    let qemu = std::env::var_os("COFFER_QEMU").filter(|value| !value.is_empty());
    // Short: a socket's path holds 107 bytes.
    qemu.map_or_else(String::new, |program| {
        let digest = Sha256::digest(program.as_encoded_bytes());
        format!("-{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2])
    })
}

/// The program under test.
fn program() -> PathBuf {
    let named = std::env::var_os("COFFER_PROGRAM").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/coffer");
    let program = named.unwrap_or(built);
    assert!(
        program.is_file(),
        "`{}` is not there: build it with `cargo xtask build --release`",
        program.display()
    );
    program.canonicalize().expect("the program has a path")
}
