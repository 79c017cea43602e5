//! The guest kernel and the contract's own init as a contract harness.
//!
//! The kernel is `cargo xtask build`'s, or the one that `COFFER_TEST_KERNEL` names. Machines are
//! emulated, or by KVM where `COFFER_TEST_BACKEND` is `qemu-kvm`, as in the lab.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]
#![allow(dead_code, reason = "each test program uses a part of this")]

mod initramfs;

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cofferdam_backend::{
    Backend, BoxFuture, Machine, MachineSpec, MemoryBacking, SnapshotFiles,
    contract::{Guest, Harness, Outcome, WireGuest},
};
use cofferdam_qemu::{KvmUsable, QemuBackend};

/// A boot takes 1.5 s alone; tests run beside each other.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Long enough for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(200);

pub(crate) struct QemuHarness {
    backend: QemuBackend,
    kernel: PathBuf,
    initramfs: PathBuf,
    dir: tempfile::TempDir,
    next: AtomicU32,
}

/// `None`, after saying why, where the guest or QEMU is missing.
pub(crate) fn harness() -> Option<QemuHarness> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/coffer-vmlinux");
    let kernel = std::env::var_os("COFFER_TEST_KERNEL").map_or(built, PathBuf::from);
    let asked = std::env::var_os("COFFER_TEST_BACKEND");
    let skip = |reason: String| {
        let all = std::env::var_os("COFFER_REQUIRE").is_some_and(|what| what == "all");
        assert!(asked.is_none() && !all, "{reason}");
        println!("SKIP: {reason}");
    };
    let Ok(kernel) = kernel.canonicalize() else {
        skip(format!(
            "there is no `{}`; `cargo xtask build` makes it",
            kernel.display()
        ));
        return None;
    };
    let initramfs = initramfs::build().expect("the contract's guest is built");
    let backend = match asked.as_deref().map(|name| name.to_str()) {
        None | Some(Some("qemu-tcg")) => QemuBackend::tcg(),
        Some(Some("qemu-kvm")) => QemuBackend::kvm(KvmUsable::Yes),
        Some(_) => panic!("There is no backend {asked:?}"),
    };
    let backend = match std::env::var_os("COFFER_QEMU").filter(|path| !path.is_empty()) {
        Some(program) => backend.with_program(program.into()),
        None => backend,
    };
    if let Err(error) = backend.compatibility_key() {
        skip(error.chain());
        return None;
    }
    Some(QemuHarness {
        backend,
        kernel,
        initramfs,
        dir: tempfile::tempdir().unwrap(),
        next: AtomicU32::new(0),
    })
}

pub(crate) fn block_on(future: BoxFuture<'_, Outcome>) -> Outcome {
    // The guest is asked by blocking calls, so another thread serves QEMU's control channel.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

impl Harness for QemuHarness {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn spec(&self) -> MachineSpec {
        let run_dir = self.dir.path().join(format!("run-{}", self.number()));
        let log = |name: &str| self.dir.path().join(name);
        serde_json::from_value(serde_json::json!({
            "id": "34".repeat(32),
            "vcpus": 1,
            "memory_mib": 128,
            "kernel": self.kernel,
            "initrd": self.initramfs,
            "console_log": log("console.log"),
            "vmm_log": log("vmm.log"),
            "run_dir": run_dir,
        }))
        .unwrap()
    }

    fn directory(&self) -> PathBuf {
        let dir = self.dir.path().join(format!("dir-{}", self.number()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn limit(&self) -> Duration {
        ANSWER_LIMIT
    }

    fn guest(&self, channel: UnixStream) -> io::Result<Box<dyn Guest>> {
        let mut guest = WireGuest::new(channel, ANSWER_LIMIT, SILENCE)?;
        guest.tick().map_err(|error| {
            let log = self.dir.path().join("console.log");
            let console = std::fs::read_to_string(log).unwrap_or_default();
            io::Error::other(format!("{error}; console:\n{console}"))
        })?;
        Ok(Box::new(guest))
    }
}

impl Drop for QemuHarness {
    /// A failed test shows what its machines wrote.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["console.log", "vmm.log"] {
                let text = std::fs::read_to_string(self.dir.path().join(name));
                println!("{name}:\n{}", text.unwrap_or_default());
            }
        }
    }
}

impl QemuHarness {
    /// A snapshot of a machine that has booted, for many to begin with; `spec` is the booted one's
    /// and becomes theirs.
    pub(crate) async fn template(&self, spec: &mut MachineSpec) -> SnapshotFiles {
        let dir = self.directory();
        let files = SnapshotFiles {
            memory: dir.join("memory"),
            state: dir.join("state"),
        };
        spec.memory = MemoryBacking::SharedFile(files.memory.clone());
        let template = self.backend.start(spec).await.unwrap();
        drop(self.guest(template.agent_channel().unwrap()).unwrap());
        template.pause().await.unwrap();
        template.snapshot(files.clone()).await.unwrap();
        template.kill().await.unwrap();
        spec.memory = MemoryBacking::Private;
        spec.run_dir = self.spec().run_dir;
        files
    }

    /// A machine as a sandbox's is: restored from a template.
    pub(crate) async fn forked(
        &self,
        spec: &mut MachineSpec,
    ) -> (Box<dyn Machine>, Box<dyn Guest>) {
        let files = self.template(spec).await;
        let machine = self.backend.restore(&files, spec).await.unwrap();
        let guest = self.guest(machine.agent_channel().unwrap()).unwrap();
        (machine, guest)
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
