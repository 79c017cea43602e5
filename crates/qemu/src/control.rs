//! What is said on the control channel, and how long an answer may take.

use std::{os::fd::AsFd, time::Duration};

use cofferdam_backend::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::time::timeout;

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

/// A capture writes memory at the speed of a disk: 64 GiB at 150 MB/s.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(450);

/// Bytes per second; QEMU's own bound of 128 MiB/s is meant for networks.
const UNBOUNDED: u64 = 1 << 40;

const CAPTURE_FD_NAME: &str = "state";

/// Waits until QEMU has built the machine.
pub(crate) async fn greet(qmp: &Qmp) -> Result<()> {
    let answers = qmp
        .pipeline(vec![("qmp_capabilities", Value::Null)])
        .await?;
    within(START_TIMEOUT, "QEMU's greeting", answers).await?
}

/// Has a QEMU that was started for it load the captured state; waits until the guest runs. All
/// is sent at once, before QEMU has even begun to read.
pub(crate) async fn load(qmp: &Qmp) -> Result<()> {
    let mut events = qmp.events();
    let uri = json!({ "uri": format!("fd:{}", fd::STATE) });
    let answers = qmp
        .pipeline(vec![
            ("qmp_capabilities", Value::Null),
            ("migrate-set-capabilities", capture_capabilities()),
            ("migrate-incoming", uri),
        ])
        .await?;
    within(START_TIMEOUT, "QEMU's answer", answers).await??;
    let runs = events.running.wait_for(|running| *running == Some(true));
    within(START_TIMEOUT, "the captured state", runs)
        .await?
        .map(drop)
        .map_err(|_| gone("it had loaded the captured state"))
}

/// Stops or continues the vCPUs and waits until that is so.
pub(crate) async fn set_running(qmp: &Qmp, run: bool) -> Result<()> {
    let command = if run { "cont" } else { "stop" };
    qmp.run(command, Value::Null, COMMAND_TIMEOUT)
        .await
        .map(drop)
}

/// Has a paused machine write its state into `stream`, and waits until it has.
pub(crate) async fn capture(qmp: &Qmp, stream: impl AsFd) -> Result<()> {
    let run = |name: &'static str, arguments| qmp.run(name, arguments, COMMAND_TIMEOUT);
    run("migrate-set-capabilities", capture_capabilities()).await?;
    run(
        "migrate-set-parameters",
        json!({ "max-bandwidth": UNBOUNDED }),
    )
    .await?;
    let name = json!({ "fdname": CAPTURE_FD_NAME });
    qmp.run_with_fd("getfd", name, stream.as_fd(), COMMAND_TIMEOUT)
        .await?;
    drop(stream);
    let mut events = qmp.events();
    events.migration.mark_unchanged();
    run("migrate", json!({ "uri": format!("fd:{CAPTURE_FD_NAME}") })).await?;
    let ended = async {
        loop {
            events
                .migration
                .changed()
                .await
                .map_err(|_| gone("it had written its state"))?;
            match *events.migration.borrow_and_update() {
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

/// Asks the guest to have this much memory; it answers in its own time.
pub(crate) async fn balloon(qmp: &Qmp, target_bytes: u64) -> Result<()> {
    let target = json!({ "value": target_bytes });
    qmp.run("balloon", target, COMMAND_TIMEOUT).await.map(drop)
}

/// Shared memory is left where it is, and migrations tell of themselves by events.
fn capture_capabilities() -> Value {
    let on = |name: &str| json!({ "capability": name, "state": true });
    json!({ "capabilities": [on("x-ignore-shared"), on("events")] })
}

async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(limit, future).await.map_err(|_| {
        let what = format!("Waiting for {what} took longer than {limit:?}");
        Error::new(ErrorKind::Control, what)
    })
}

fn gone(before: &str) -> Error {
    Error::new(ErrorKind::Gone, format!("QEMU ended before {before}"))
}
