//! The kernel and the agent as a contract harness.
//!
//! They are `cargo xtask build`'s, or those that `COFFER_TEST_KERNEL` and
//! `COFFER_TEST_INITRAMFS` name. The agent's number is the guest's uptime.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cofferdam_backend::{
    Backend, BoxFuture, MachineSpec,
    contract::{Guest, Harness, Outcome},
};
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, Decoder, FrameKind, GENERATION, HostMessage, decode_control,
    encode_control,
};
use cofferdam_qemu::QemuBackend;

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
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let file = |variable: &str, built: &str| {
        let path = std::env::var_os(variable).map_or_else(|| target.join(built), PathBuf::from);
        if path.exists() {
            return path.canonicalize().ok();
        }
        println!(
            "SKIP: there is no `{}`; `cargo xtask build` makes it",
            path.display()
        );
        None
    };
    let kernel = file("COFFER_TEST_KERNEL", "release/coffer-vmlinux")?;
    let initramfs = file("COFFER_TEST_INITRAMFS", "guest/initramfs.cpio")?;
    let backend = QemuBackend::tcg();
    if let Err(error) = backend.compatibility_key() {
        println!("SKIP: {}", error.chain());
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
        let mut guest = AgentGuest {
            channel,
            decoder: Decoder::new(),
            last: 0,
        };
        guest.tick()?;
        Ok(Box::new(guest))
    }
}

impl QemuHarness {
    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

struct AgentGuest {
    channel: UnixStream,
    decoder: Decoder,
    /// The guest's clock may tick as slowly as every 10 ms.
    last: u64,
}

impl AgentGuest {
    fn ask(&mut self) -> io::Result<()> {
        let mut hello = Vec::new();
        let message = HostMessage::Hello {
            generation: GENERATION,
        };
        encode_control(CONTROL_STREAM, &message, &mut hello).map_err(io::Error::other)?;
        self.channel.write_all(&hello)
    }

    fn answer(&mut self, limit: Duration) -> io::Result<u64> {
        self.channel.set_read_timeout(Some(limit))?;
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                if frame.kind != FrameKind::Control {
                    continue;
                }
                let message = decode_control(frame.payload).map_err(io::Error::other)?;
                if let AgentMessage::Ready { uptime_ns, .. } = message {
                    return Ok(uptime_ns);
                }
            }
            let mut bytes = [0; 4096];
            match self.channel.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.decoder.push(&bytes[..count]),
            }
        }
    }

    fn nothing_within(&mut self, limit: Duration) -> io::Result<bool> {
        match self.answer(limit) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Guest for AgentGuest {
    fn tick(&mut self) -> io::Result<u64> {
        loop {
            self.ask()?;
            let now = self.answer(ANSWER_LIMIT)?;
            if now != self.last {
                self.last = now;
                return Ok(now);
            }
        }
    }

    fn counts_by_one(&self) -> bool {
        false
    }

    fn is_silent(&mut self) -> io::Result<bool> {
        // The agent says `Ready` once by itself; that one may be waiting here.
        while !self.nothing_within(SILENCE)? {}
        self.ask()?;
        self.nothing_within(SILENCE)
    }
}
