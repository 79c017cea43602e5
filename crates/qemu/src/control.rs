//! What is said on the control channel, and how long an answer may take.

use std::{os::fd::AsFd, time::Duration};

use cofferdam_backend::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

use crate::{
    argv::fd,
    qmp::{MigrationStatus, Qmp},
};

/// From exec to the first answer: 30 ms here, 2 s in a nested emulation; the rest is for a host
/// that starts many at once.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Commands that only change a flag are answered in microseconds, by a thread that a busy guest
/// cannot hold for longer than a disk request takes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// What a host may have to flush when a machine is stopped: its own limit of dirty pages for a file
/// that is being written is some hundred MB.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A capture writes memory at the speed of a disk: 64 GiB at 150 MB/s.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(450);

/// A disk's changes during a capture are copied at the speed of a disk; see above.
pub(crate) const JOB_TIMEOUT: Duration = CAPTURE_TIMEOUT;

/// Bytes per second; QEMU's own bound of 128 MiB/s is meant for networks.
const UNBOUNDED: u64 = 1 << 40;

/// QEMU's own default; the finest grain that costs nothing to speak of.
const CLUSTER_BYTES: u32 = 64 << 10;

/// The least: of what QEMU reckons that it sends in this time, it leaves so much to the end, and it
/// must not come there by itself (see `snapshot::gate`).
const DOWNTIME_MS: u32 = 1;

/// Made for Xen, whose machines' memory QEMU does not hold either; it is in every build.
const SAVE_DEVICES: &str = "xen-save-devices-state";

const ACTIVATE_DISKS: &str = "blockdev-set-active";

const CAPTURE_FD_NAME: &str = "state";

/// Waits until QEMU has built the machine.
pub(crate) async fn greet(qmp: &Qmp) -> Result<()> {
    let answers = qmp
        .pipeline(vec![("qmp_capabilities", Value::Null)])
        .await?;
    within(START_TIMEOUT, "QEMU's greeting", answers).await?
}

/// Has a QEMU that was started for it load the captured state; waits until the guest runs. All
/// is sent at once, before QEMU has even begun to read. With a network interface, QEMU sends no
/// frames in the guest's name: it would announce the captured address, five times in a second.
pub(crate) async fn load(qmp: &Qmp, network: bool) -> Result<()> {
    let mut events = qmp.events();
    let uri = json!({ "uri": format!("fd:{}", fd::STATE) });
    let mut commands = vec![
        ("qmp_capabilities", Value::Null),
        ("migrate-set-capabilities", capture_capabilities()),
    ];
    if network {
        commands.push(("migrate-set-parameters", json!({ "announce-rounds": 0 })));
    }
    commands.push(("migrate-incoming", uri));
    let answers = qmp.pipeline(commands).await?;
    within(START_TIMEOUT, "QEMU's answer", answers).await??;
    let runs = events.running.wait_for(|running| *running == Some(true));
    within(START_TIMEOUT, "the captured state", runs)
        .await?
        .map(drop)
        .map_err(|_| gone("it had loaded the captured state"))
}

/// Stops or continues the vCPUs and waits until that is so. They stop at once; then QEMU flushes
/// the disks.
pub(crate) async fn set_running(qmp: &Qmp, running: bool) -> Result<()> {
    let (command, limit) = if running {
        ("cont", COMMAND_TIMEOUT)
    } else {
        ("stop", STOP_TIMEOUT)
    };
    qmp.run(command, Value::Null, limit).await.map(drop)
}

/// A migration that was begun.
#[derive(Debug)]
pub(crate) struct Migration(watch::Receiver<Option<MigrationStatus>>);

/// Has a machine write its state into `stream`. If it runs, it is stopped at the end.
pub(crate) async fn migrate(qmp: &Qmp, stream: impl AsFd) -> Result<Migration> {
    run(qmp, "migrate-set-capabilities", capture_capabilities()).await?;
    let parameters = json!({ "max-bandwidth": UNBOUNDED, "downtime-limit": DOWNTIME_MS });
    run(qmp, "migrate-set-parameters", parameters).await?;
    let name = json!({ "fdname": CAPTURE_FD_NAME });
    qmp.run_with_fd("getfd", name, stream.as_fd(), COMMAND_TIMEOUT)
        .await?;
    drop(stream);
    let mut status = qmp.events().migration;
    status.mark_unchanged();
    let uri = json!({ "uri": format!("fd:{CAPTURE_FD_NAME}") });
    if let Err(error) = run(qmp, "migrate", uri).await {
        // A descriptor that QEMU keeps would have the stream's reader wait for ever. The first error
        // is the one to report.
        let _ = run(qmp, "closefd", json!({ "fdname": CAPTURE_FD_NAME })).await;
        return Err(error);
    }
    Ok(Migration(status))
}

impl Migration {
    /// Waits until the state is written.
    pub(crate) async fn end(mut self) -> Result<()> {
        let ended = async {
            loop {
                let changed = self.0.changed().await;
                changed.map_err(|_| gone("it had written its state"))?;
                match *self.0.borrow_and_update() {
                    Some(MigrationStatus::Completed) => return Ok(()),
                    Some(MigrationStatus::Failed) => {
                        return Err(Error::new(ErrorKind::Io, "QEMU could not write its state"));
                    }
                    Some(MigrationStatus::Running) | None => {}
                }
            }
        };
        within(CAPTURE_TIMEOUT, "the machine's state", ended).await?
    }
}

/// The threads of QEMU that run the guest's processors.
pub(crate) async fn vcpu_threads(qmp: &Qmp) -> Result<Vec<u32>> {
    let vcpus = qmp
        .run("query-cpus-fast", Value::Null, COMMAND_TIMEOUT)
        .await?;
    let thread = |vcpu: &Value| u32::try_from(vcpu["thread-id"].as_u64()?).ok();
    let threads = vcpus
        .as_array()
        .map(|vcpus| vcpus.iter().filter_map(thread));
    Ok(threads.into_iter().flatten().collect())
}

/// Whether QEMU has the command of [`save_devices`].
pub(crate) async fn can_save_devices(qmp: &Qmp) -> Result<bool> {
    has_command(qmp, SAVE_DEVICES).await
}

async fn has_command(qmp: &Qmp, name: &str) -> Result<bool> {
    let commands = qmp
        .run("query-commands", Value::Null, COMMAND_TIMEOUT)
        .await?;
    let is_it = |command: &Value| command.get("name").and_then(Value::as_str) == Some(name);
    Ok(commands
        .as_array()
        .is_some_and(|commands| commands.iter().any(is_it)))
}

/// Has a paused machine take back the disks that it let go of at the end of a migration. QEMU
/// without the command, which is older than 10.0, does so by itself when a disk is used.
pub(crate) async fn activate_disks(qmp: &Qmp) -> Result<()> {
    if !has_command(qmp, ACTIVATE_DISKS).await? {
        return Ok(());
    }
    run(qmp, ACTIVATE_DISKS, json!({ "active": true })).await
}

/// Has a paused machine write its vCPUs and devices, without memory, into the pipe at `path`;
/// waits until it has, which is as long as the pipe's reader takes.
pub(crate) async fn save_devices(qmp: &Qmp, path: &str) -> Result<()> {
    // Disks are not let go of: the machine lives on.
    let file = json!({ "filename": path, "live": false });
    qmp.run(SAVE_DEVICES, file, CAPTURE_TIMEOUT).await.map(drop)
}

/// From now on QEMU notes which clusters of a disk are written.
pub(crate) async fn add_bitmap(qmp: &Qmp, node: &str, name: &str) -> Result<()> {
    let bitmap = json!({ "node": node, "name": name, "granularity": CLUSTER_BYTES });
    run(qmp, "block-dirty-bitmap-add", bitmap).await
}

pub(crate) async fn remove_bitmap(qmp: &Qmp, node: &str, name: &str) -> Result<()> {
    let bitmap = json!({ "node": node, "name": name });
    run(qmp, "block-dirty-bitmap-remove", bitmap).await
}

/// Opens the file `path` as the node `name`. Whoever wants it on the host's disk flushes it; if
/// QEMU did, the pause of a capture would wait for it.
pub(crate) async fn add_target(qmp: &Qmp, name: &str, path: &str) -> Result<()> {
    let cache = json!({ "no-flush": true });
    let file = json!({ "driver": "file", "filename": path, "aio": "threads", "cache": cache });
    let node = json!({ "node-name": name, "driver": "raw", "cache": cache, "file": file });
    run(qmp, "blockdev-add", node).await
}

pub(crate) async fn remove_target(qmp: &Qmp, name: &str) -> Result<()> {
    run(qmp, "blockdev-del", json!({ "node-name": name })).await
}

/// Bytes of a disk that a bitmap has noted.
pub(crate) async fn bitmap_bytes(qmp: &Qmp, node: &str, name: &str) -> Result<u64> {
    let nodes = qmp
        .run(
            "query-named-block-nodes",
            json!({ "flat": true }),
            COMMAND_TIMEOUT,
        )
        .await?;
    noted_bytes(&nodes, node, name).ok_or_else(|| {
        let what = format!("QEMU does not know the bitmap `{name}` of the disk `{node}`");
        Error::new(ErrorKind::Control, what)
    })
}

fn noted_bytes(nodes: &Value, node: &str, name: &str) -> Option<u64> {
    let named = |value: &Value, key: &str, name: &str| value[key].as_str() == Some(name);
    let nodes = nodes.as_array()?;
    let node = nodes.iter().find(|of| named(of, "node-name", node))?;
    let bitmaps = node["dirty-bitmaps"].as_array()?;
    let bitmap = bitmaps.iter().find(|of| named(of, "name", name))?;
    bitmap["count"].as_u64()
}

/// Lets the guest write this many bytes to a device in a second; 0 is no limit.
pub(crate) async fn limit_writes(qmp: &Qmp, device: &str, bytes: u64) -> Result<()> {
    let limits = json!({
        "id": device, "bps": 0, "bps_rd": 0, "bps_wr": bytes, "iops": 0, "iops_rd": 0, "iops_wr": 0,
    });
    run(qmp, "block_set_io_throttle", limits).await
}

/// What becomes of a bitmap when what it has noted was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitmapEnd {
    /// It has only noted what was written since the copy began.
    Clear,
    /// It is of no further use.
    Keep,
}

impl BitmapEnd {
    /// QEMU's word, `BitmapSyncMode` of `qapi/block-core.json`.
    const fn mode(self) -> &'static str {
        match self {
            Self::Clear => "on-success",
            Self::Keep => "never",
        }
    }
}

/// Starts the job `name`: what the bitmap `name` has noted goes to the node `name` as it is now.
///
/// QEMU answers when the guest's requests that are under way have ended, which takes a slow disk
/// as long as the copy itself.
pub(crate) async fn start_backup(qmp: &Qmp, node: &str, name: &str, end: BitmapEnd) -> Result<()> {
    let job = json!({
        "job-id": name, "device": node, "target": name,
        "sync": "bitmap", "bitmap": name, "bitmap-mode": end.mode(),
    });
    let answer = qmp.run("blockdev-backup", job, JOB_TIMEOUT).await;
    answer.map(drop)
}

pub(crate) async fn cancel_job(qmp: &Qmp, name: &str) -> Result<()> {
    run(qmp, "job-cancel", json!({ "id": name })).await
}

async fn run(qmp: &Qmp, command: &str, arguments: Value) -> Result<()> {
    qmp.run(command, arguments, COMMAND_TIMEOUT).await.map(drop)
}

/// Asks the guest to have this much memory; it answers in its own time.
pub(crate) async fn balloon(qmp: &Qmp, target_bytes: u64) -> Result<()> {
    run(qmp, "balloon", json!({ "value": target_bytes })).await
}

/// Shared memory is left where it is, and migrations tell of themselves by events.
fn capture_capabilities() -> Value {
    let on = |name: &str| json!({ "capability": name, "state": true });
    json!({ "capabilities": [on("x-ignore-shared"), on("events")] })
}

pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T> {
    timeout(limit, future).await.map_err(|_| {
        let what = format!("Waiting for {what} took longer than {limit:?}");
        Error::new(ErrorKind::Control, what)
    })
}

fn gone(before: &str) -> Error {
    Error::new(ErrorKind::Gone, format!("QEMU ended before {before}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_bitmap_are_found_by_disk_and_name() {
        let nodes = json!([
            { "node-name": "disk0" },
            { "node-name": "disk1", "dirty-bitmaps": [
                { "name": "other", "count": 1 }, { "name": "ours", "count": 65536 },
            ] },
        ]);
        assert_eq!(noted_bytes(&nodes, "disk1", "ours"), Some(65536));
        for (disk, name) in [("disk0", "ours"), ("disk1", "none"), ("disk2", "ours")] {
            assert_eq!(noted_bytes(&nodes, disk, name), None, "{disk} {name}");
        }
    }
}
