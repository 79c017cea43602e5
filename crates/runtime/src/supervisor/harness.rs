//! A real supervisor whose machine is the fake and whose guest is a thread of the test.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream as StdUnixStream,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use cofferdam_backend::{
    Backend, BoxFuture, Machine, MachineSpec,
    fake::{FakeBackend, KERNEL_MAGIC},
};
use cofferdam_proto::{
    AgentMessage, CLIENT_GENERATION, Channel, Decoder, FrameKind, HostMessage, ProcessSpec,
    Request, SESSION_STREAM, StartMode, decode_control, encode_control, encode_data,
};
use cofferdam_types::{Digest, ExitStatus, SandboxId, SandboxSpec, SandboxStatus, Signal};

use super::*;
use crate::{
    link::AgentLink,
    store::{RECORD_VERSION, RecordedImage, SandboxRecord},
};

#[derive(Debug)]
struct NoFollowUp;

impl AfterStart for NoFollowUp {
    fn record(&mut self, _: Arc<dyn Machine>) -> BoxFuture<'static, Recorded> {
        Box::pin(async { Recorded::default() })
    }

    fn make_ready(&mut self, _: &Store, _: &Entry) -> Vec<String> {
        Vec::new()
    }
}

/// A sandbox in a store of its own.
pub(super) struct Sandbox {
    home: tempfile::TempDir,
    pub(super) record: SandboxRecord,
}

impl Sandbox {
    pub(super) fn new() -> Self {
        Self::with_spec(SandboxSpec::default())
    }

    pub(super) fn with_spec(spec: SandboxSpec) -> Self {
        let home = tempfile::tempdir().unwrap();
        let record = SandboxRecord {
            version: RECORD_VERSION,
            id: SandboxId::from_random([7; 32]),
            name: "web".to_owned(),
            created_ns: 1,
            spec,
            image: RecordedImage {
                name: "image".to_owned(),
                id: Digest::from_sha256([1; 32]),
                manifest: Digest::from_sha256([2; 32]),
                rootfs: "/rootfs".into(),
                disk_bytes: 0,
                auto_warm_ups: None,
            },
            process: ProcessSpec::default(),
            hostname: "host".to_owned(),
            stop_signal: Signal::TERM,
            forked_from: None,
        };
        let sandbox = Self { home, record };
        let store = Store::open(sandbox.layout()).unwrap();
        store.insert(&sandbox.record, |_| Ok(())).unwrap();
        sandbox
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::at(self.home.path()).unwrap()
    }

    pub(super) fn entry(&self) -> Entry {
        let store = Store::open(self.layout()).unwrap();
        store.load(self.record.id).unwrap().unwrap()
    }

    async fn machine(&self) -> Arc<dyn Machine> {
        let path = |name: &str| self.home.path().join(name);
        std::fs::write(path("kernel"), KERNEL_MAGIC).unwrap();
        let text = format!(
            r#"{{"id":"{}","kernel":"{}","console_log":"/c","vmm_log":"/v","run_dir":"{}"}}"#,
            self.record.id,
            path("kernel").display(),
            path("machine").display()
        );
        let spec: MachineSpec = serde_json::from_str(&text).unwrap();
        FakeBackend::new().start(&spec).await.unwrap().into()
    }

    /// Runs a supervisor whose guest is `agent`, with one more client, until the sandbox's end.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        agent: impl FnOnce(StdUnixStream) -> T + Send + 'static,
        client: impl AsyncFnOnce(&Path),
    ) -> T {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let agent = thread::spawn(move || agent(theirs));
        let (events, queue) = queue();
        let (mine, first) = UnixStream::pair().unwrap();
        let first = Client::accept(FIRST_CLIENT, first, events.clone()).unwrap();
        // Nobody follows the workload.
        drop(mine);
        let duty = Duty {
            layout: self.layout(),
            id: self.record.id,
            request: ClientRequest {
                generation: CLIENT_GENERATION,
                request: Request::Start(StartMode::default()),
            },
        };
        let machine = self.machine().await;
        let dying = Arc::clone(&machine);
        let bring_up = async move |_: Starting<'_>| {
            let live = Live {
                machine,
                agent: AgentLink::new(ours)?,
                backend: "fake",
                timeline: Vec::new(),
                started_ns: 1,
                machine_key: String::new(),
                degraded: Vec::new(),
                disk_made: None,
                network: None,
                read_ahead: None,
            };
            let after: Box<dyn AfterStart> = Box::new(NoFollowUp);
            Ok((live, after))
        };
        let paths = self.layout().sandbox(self.record.id);
        let socket = paths.socket();
        let supervisor = serve(duty, first, events, queue, bring_up);
        // A machine ends with its guest, or is killed by the supervisor, which hangs up.
        let guest = async {
            let joined = tokio::task::spawn_blocking(|| agent.join()).await;
            let _ = dying.kill().await;
            joined.unwrap().unwrap()
        };
        let (served, (), result) = tokio::join!(supervisor, client(&socket), guest);
        served.unwrap();
        result
    }

    /// The same without a further client.
    pub(super) async fn run_alone<T: Send + 'static>(
        &self,
        agent: impl FnOnce(StdUnixStream) -> T + Send + 'static,
    ) -> T {
        self.run(agent, async |_: &Path| {}).await
    }

    pub(super) fn expect_broken(&self) {
        let state = self.entry().state;
        assert_eq!(state.status, SandboxStatus::Failed);
        let message = state.failure.unwrap().message;
        assert!(
            message.starts_with("The guest broke the agent protocol: "),
            "{message}"
        );
    }
}

pub(super) fn control(stream: u32, message: &AgentMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode_control(stream, message, &mut out).unwrap();
    out
}

pub(super) fn data(stream: u32, bytes: &[u8], eof: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode_data(stream, Channel::Stdout, bytes, eof, &mut out);
    out
}

/// A guest that does what it is asked for.
pub(super) struct Guest {
    stream: StdUnixStream,
    decoder: Decoder,
}

impl Guest {
    pub(super) fn new(stream: StdUnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// The next message of the supervisor, with its stream; none if it hung up, or sent none for
    /// `limit`.
    pub(super) fn next_within(&mut self, limit: Option<Duration>) -> Option<(u32, HostMessage)> {
        self.stream.set_read_timeout(limit).unwrap();
        let mut buffer = [0; 4096];
        loop {
            while let Some(frame) = self.decoder.next_frame().unwrap() {
                if frame.kind == FrameKind::Control {
                    return Some((frame.stream, decode_control(frame.payload).unwrap()));
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// The next message of the supervisor.
    pub(super) fn next(&mut self) -> (u32, HostMessage) {
        self.next_within(None).expect("the supervisor hung up")
    }

    pub(super) fn send(&mut self, stream: u32, message: &AgentMessage) {
        self.stream.write_all(&control(stream, message)).unwrap();
    }

    pub(super) fn print(&mut self, stream: u32, bytes: &[u8]) {
        self.stream.write_all(&data(stream, bytes, false)).unwrap();
    }

    /// Waits for an exec and starts it; returns its stream.
    pub(super) fn start_exec(&mut self) -> u32 {
        let (stream, message) = self.next();
        assert!(matches!(message, HostMessage::Exec { .. }), "{message:?}");
        self.send(stream, &AgentMessage::Started { pid: 7 });
        stream
    }

    /// Waits until the workload is killed, and ends it.
    pub(super) fn die_by_kill(&mut self) {
        let (stream, message) = self.next();
        let kill = Signal::KILL.number();
        assert_eq!(
            (stream, message),
            (SESSION_STREAM, HostMessage::Signal { signal: kill })
        );
        self.exit(stream, ExitStatus::Signal(kill));
    }

    pub(super) fn exit(&mut self, stream: u32, status: ExitStatus) {
        self.send(stream, &AgentMessage::Exited { status });
    }
}
