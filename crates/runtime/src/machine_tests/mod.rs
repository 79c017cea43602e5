//! The runtime on the fake backend: starts, sessions, ends, templates, pools and forks without a
//! machine, in one process. Supervisors and standbys are threads here.

mod agent;
mod forks;
mod lifetimes;
mod pools;
mod starts;

use std::{
    ffi::OsString, os::unix::net::UnixStream as StdUnixStream, sync::Arc, thread, time::Duration,
};

use cofferdam_backend::{
    Backend,
    fake::{FakeBackend, GuestProgram, KERNEL_MAGIC},
};
use cofferdam_proto::{ProcessSpec, StartMode, SupervisorMessage};
use cofferdam_types::{
    ByteSize, CpuCount, Digest, SandboxId, SandboxSpec, SandboxStatus, Signal, UpperSpec,
};
use tokio::net::UnixStream;

use self::agent::FakeAgent;
use crate::{
    Connection, Entry, Layout, RecordedImage, Runtime, SandboxRecord,
    backends::{Backends, Given},
    base::{random, task::block_on},
    pool, roles,
    store::{
        RECORD_VERSION,
        program::{STAND_BY, SUPERVISE},
    },
    supervisor::{self, Client, FIRST_CLIENT},
};

/// How long anything may take that takes milliseconds, on a loaded host.
const LIMIT: Duration = Duration::from_secs(20);

/// A store whose machines are fakes.
struct Home {
    backend: Arc<FakeBackend>,
    agent: Arc<FakeAgent>,
    layout: Layout,
    runtime: Runtime,
    given: Arc<Given>,
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self::with(FakeBackend::with_program)
    }

    /// A store whose backend has no more than it must.
    fn plain() -> Self {
        Self::with(|agent| FakeBackend::with_program(agent).plain())
    }

    fn with(backend: impl FnOnce(Arc<dyn GuestProgram>) -> FakeBackend) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), KERNEL_MAGIC).unwrap();
        let agent = Arc::new(FakeAgent::default());
        let backend = Arc::new(backend(agent.clone()));
        let given = Arc::new(Given {
            play: Some(play),
            ..Given::of(backend.clone())
        });
        let layout = Layout::at(&dir.path().join("home")).unwrap();
        let rootfs = layout.images().join("rootfs");
        std::fs::create_dir_all(&rootfs).unwrap();
        std::fs::write(rootfs.join("image"), [0; 4096]).unwrap();
        let layout = layout.with_backends(Backends::Given(Arc::clone(&given)));
        Self {
            backend,
            agent,
            runtime: Runtime::with_layout(layout.clone()).unwrap(),
            layout,
            given,
            dir,
        }
    }

    /// A sandbox that runs `argv` and has not started.
    fn sandbox(&self, name: &str, argv: &[&str]) -> Entry {
        self.sandbox_with(name, argv, |_| {})
    }

    /// The same with changes of its spec.
    fn sandbox_with(
        &self,
        name: &str,
        argv: &[&str],
        change: impl FnOnce(&mut SandboxSpec),
    ) -> Entry {
        let mut record = SandboxRecord {
            version: RECORD_VERSION,
            id: SandboxId::from_random(random::bytes().unwrap()),
            name: name.to_owned(),
            created_ns: 1,
            spec: SandboxSpec {
                name: Some(name.to_owned()),
                memory: ByteSize::from_mib(64),
                cpus: CpuCount::from_millis(1000).unwrap(),
                upper: UpperSpec::Disk(ByteSize::from_bytes(cofferdam_disk::MIN_UPPER_BYTES)),
                kernel: Some(self.dir.path().join("kernel").display().to_string()),
                ..SandboxSpec::default()
            },
            image: RecordedImage {
                name: "image".to_owned(),
                id: Digest::from_sha256([1; 32]),
                manifest: Digest::from_sha256([2; 32]),
                rootfs: self.layout.images().join("rootfs/image"),
                disk_bytes: 4096,
                auto_warm_ups: None,
            },
            process: ProcessSpec {
                argv: argv.iter().map(|&word| word.to_owned()).collect(),
                ..ProcessSpec::default()
            },
            hostname: name.to_owned(),
            stop_signal: Signal::TERM,
            forked_from: None,
        };
        change(&mut record.spec);
        self.runtime
            .store()
            .insert_named(&mut record, |_| Ok(()))
            .unwrap();
        self.runtime.find(name).unwrap()
    }

    /// Starts a sandbox; returns its connection and the stages of the start.
    async fn start(&self, entry: &Entry) -> (Connection, Vec<String>) {
        let mode = StartMode {
            attach: true,
            ..StartMode::default()
        };
        let started = self.runtime.start(entry, mode).await.unwrap();
        let (connection, SupervisorMessage::Started { timeline, .. }) = started else {
            panic!("another answer: {started:?}");
        };
        let stages = timeline.into_iter().map(|stage| stage.name).collect();
        (connection, stages)
    }

    /// Kills a sandbox and waits for its end.
    async fn kill(&self, name: &str) {
        let entry = self.runtime.find(name).unwrap();
        soon(self.runtime.kill(&entry, Signal::KILL)).await.unwrap();
    }

    fn status(&self, name: &str) -> SandboxStatus {
        self.runtime.find(name).unwrap().state.status
    }

    fn degraded(&self, name: &str) -> Vec<String> {
        self.runtime.find(name).unwrap().state.degraded
    }

    /// The first `count` things that are to be done in the background; waits for them, since a
    /// supervisor orders them after its last answer.
    async fn ordered(&self, count: usize) -> Vec<String> {
        loop {
            let ordered = self.given.ordered.lock().unwrap().clone();
            if ordered.len() >= count {
                return ordered;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Ends the machine of a sandbox from outside, as a crash does.
    fn crash(&self, entry: &Entry) {
        let run_dir = self.layout.sandbox(entry.record.id).run;
        self.backend.reap(&run_dir).unwrap();
    }
}

/// Plays a role of the program on a thread.
fn play(layout: Layout, args: &[OsString], socket: StdUnixStream) {
    let word = |index: usize| args[index].to_str().unwrap().to_owned();
    let role = word(0);
    let (which, last) = (
        word(2 - usize::from(role == SUPERVISE)),
        word(args.len() - 1),
    );
    let id: SandboxId = last.parse().unwrap();
    thread::spawn(move || {
        block_on(async {
            let (events, queue) = supervisor::queue();
            socket.set_nonblocking(true).unwrap();
            let stream = UnixStream::from_std(socket).unwrap();
            let client = Client::accept(FIRST_CLIENT, stream, events.clone()).unwrap();
            // A failure is its client's to report.
            let _ = match role.as_str() {
                SUPERVISE => roles::supervise_for(layout, id, client, events, queue).await,
                STAND_BY => pool::stand_by_for(layout, which, id, client, events, queue).await,
                role => panic!("the role {role} is not played here"),
            };
        })
        .unwrap();
    });
}

/// Waits for something that takes milliseconds.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("too slow")
}
