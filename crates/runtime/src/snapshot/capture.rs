//! Getting a sandbox's files of one moment into a directory.

use std::{path::Path, time::Duration};

use cofferdam_base::fs;
use cofferdam_proto::{Request, SupervisorMessage};
use cofferdam_types::SandboxStatus;

use super::{SnapshotFileName, SnapshotKind, Snapshots};
use crate::{
    base::error::{Error, ErrorKind, Result, io, lift},
    client,
    host::{
        self,
        needs::{self, Need},
    },
    store::Entry,
};

/// How long a workload that has ended may take to be written down as such.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How often that is looked at: there is nothing to wait for that tells of a lock let go.
const END_CHECK: Duration = Duration::from_millis(10);

/// What was captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Captured {
    pub(super) kind: SnapshotKind,
    /// How long the sandbox stood still; none if it did not run.
    pub(super) pause_us: Option<u64>,
}

impl Snapshots<'_> {
    /// Captures a sandbox into `dir`, a staging directory below the snapshots: of a live one
    /// memory, devices and disk unless only the disk is asked for; of a stopped one its disk.
    pub(super) async fn capture(
        &self,
        entry: &Entry,
        kind: Option<SnapshotKind>,
        dir: &Path,
    ) -> Result<Captured> {
        let name = &entry.record.name;
        let refused = |what: &str| {
            let what = format!("Sandbox `{name}` is {}; {what}", entry.state.status);
            Error::new(ErrorKind::WrongState, what)
        };
        match entry.state.status {
            SandboxStatus::Starting | SandboxStatus::Running | SandboxStatus::Paused => {
                let wanted = kind.unwrap_or(SnapshotKind::Full);
                let captured = self.capture_live(entry, wanted, dir).await;
                match captured {
                    Err(error) if kind.is_none() => self.capture_ended(entry, dir, error).await,
                    captured => captured,
                }
            }
            SandboxStatus::Stopped if kind == Some(SnapshotKind::Full) => {
                Err(refused("it has no memory to capture").hint("Ask for its disk with `--disk`"))
            }
            SandboxStatus::Stopped => self.capture_stopped(entry, dir),
            SandboxStatus::Created => Err(refused("there is nothing of it to capture yet")
                .hint(format!("Start it with `coffer start {name}`"))),
            SandboxStatus::Failed => Err(refused("what it left is of no known moment").hint(
                format!("Look at it with `coffer logs {name}`, start it again, or remove it"),
            )),
            SandboxStatus::Stopping => {
                Err(refused("it can be captured when it runs or has stopped"))
            }
        }
    }

    async fn capture_live(
        &self,
        entry: &Entry,
        kind: SnapshotKind,
        dir: &Path,
    ) -> Result<Captured> {
        let need = match kind {
            SnapshotKind::Full => Need::LiveMemory,
            SnapshotKind::Disk => Need::LiveDisk,
        };
        let backend = entry.state.backend.as_deref();
        needs::expect_of_live(self.store.layout(), backend, need)?;
        let not_text = || Error::new(ErrorKind::Unsupported, "The store's path is not UTF-8");
        let request = Request::Capture {
            dir: dir.to_str().ok_or_else(not_text)?.to_owned(),
            disk_only: kind == SnapshotKind::Disk,
        };
        let answer = client::request(self.store, entry, request).await;
        let answer = answer.map(|(_, answer)| answer);
        match answer.map_err(|error| self.with_room(entry, kind, error))? {
            SupervisorMessage::Captured { pause_us } => Ok(Captured {
                kind,
                pause_us: Some(pause_us),
            }),
            _ => Err(Error::new(
                ErrorKind::Bug,
                "The supervisor answered something else",
            )),
        }
    }

    /// Says of a capture that found no room what it needs and what is free.
    fn with_room(&self, entry: &Entry, kind: SnapshotKind, error: Error) -> Error {
        if error.kind() != ErrorKind::NoSpace {
            return error;
        }
        let layout = self.store.layout();
        let disk = cofferdam_disk::allocated_bytes(&layout.sandbox(entry.record.id).upper());
        let memory = match kind {
            SnapshotKind::Full => entry.record.spec.memory.bytes(),
            SnapshotKind::Disk => 0,
        };
        let needed = disk.unwrap_or(0).saturating_add(memory).div_ceil(1 << 20);
        let what = format!(
            "There is no room to capture `{}`: it needs up to {needed} MiB, and {}",
            entry.record.name,
            host::room::free_text(layout.home())
        );
        Error::new(ErrorKind::NoSpace, what)
            .because(error)
            .hint("Free some space, or move the store with `COFFER_HOME`")
    }

    /// Captures the disk of a sandbox whose workload ended while it was to be captured, as if it
    /// had been stopped before. `error` is why that failed; it stays if the sandbox goes on.
    async fn capture_ended(&self, entry: &Entry, dir: &Path, error: Error) -> Result<Captured> {
        let may_have_ended = matches!(
            error.kind(),
            ErrorKind::WrongState | ErrorKind::SupervisorLost | ErrorKind::GuestFailed
        );
        if !may_have_ended || !self.ends_now(entry).await {
            return Err(error);
        }
        let Some(entry) = self.store.load(entry.record.id)? else {
            let what = format!("Sandbox `{}` ended and is removed", entry.record.name);
            return Err(Error::new(ErrorKind::NotFound, what)
                .because(error)
                .hint("One that is not `--rm` keeps its disk, which can be forked"));
        };
        // The capture may have left parts of itself.
        for name in SnapshotKind::Full.files() {
            let part = dir.join(name.as_str());
            fs::remove_file_if_present(&part)
                .map_err(|error| io("Could not begin a capture anew", error))?;
        }
        self.capture_stopped(&entry, dir)
    }

    /// Whether a sandbox has stopped, or does so in a moment: its workload has ended, and its
    /// supervisor writes that down and lets go of it.
    async fn ends_now(&self, entry: &Entry) -> bool {
        let stopped = async {
            // Its state says whether it failed.
            let _ = client::wait(self.store, entry).await;
            loop {
                match self.store.load(entry.record.id) {
                    Ok(Some(now)) if now.state.status.is_live() => {}
                    Ok(Some(now)) if now.state.status != SandboxStatus::Stopped => return false,
                    Ok(Some(_)) => {
                        if let Ok(Some(_lock)) = self.store.try_lock(entry.record.id) {
                            return true;
                        }
                    }
                    Ok(None) => return true,
                    Err(_) => return false,
                }
                tokio::time::sleep(END_CHECK).await;
            }
        };
        tokio::time::timeout(END_TIMEOUT, stopped)
            .await
            .unwrap_or(false)
    }

    fn capture_stopped(&self, entry: &Entry, dir: &Path) -> Result<Captured> {
        let id = entry.record.id;
        let busy = || {
            let what = format!(
                "Sandbox `{}` is being used by another command",
                entry.record.name
            );
            Error::new(ErrorKind::WrongState, what)
        };
        // With the lock held nobody starts it while its disk is read.
        let _lock = self.store.try_lock(id)?.ok_or_else(busy)?;
        let upper = self.store.layout().sandbox(id).upper();
        lift(cofferdam_disk::copy_sparse(
            &upper,
            &dir.join(SnapshotFileName::Upper.as_str()),
        ))?;
        Ok(Captured {
            kind: SnapshotKind::Disk,
            pause_us: None,
        })
    }
}
