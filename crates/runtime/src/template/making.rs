//! What the making of every template needs: a machine in its staging directory, a limit for each
//! step of the guest, and the capture.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cofferdam_backend::{Backend, Machine, MachineSpec, MemoryBacking};
use cofferdam_proto::{AgentMessage, CONTROL_STREAM, HostMessage};
use cofferdam_types::{SandboxId, Signal};

use super::{MachineShape, files_in, machine::machine_spec};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, lift},
        random,
    },
    host::guest::GuestFiles,
    link::AgentLink,
};

/// How long a guest may take to boot. Emulated on a loaded host it takes seconds; a guest that
/// is silent this long is dead.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a guest may take for a mount or a sync.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// A machine that becomes a template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Making<'a> {
    pub(super) backend: &'a dyn Backend,
    pub(super) machine: &'a dyn Machine,
    pub(super) spec: &'a MachineSpec,
}

impl Making<'_> {
    /// Adds what the machine's traces show to the failure of a step.
    pub(super) fn explain(self, error: Error) -> Error {
        crate::host::diagnosis::explain(self.backend, self.machine, self.spec, error)
    }
}

/// Runs a step of a guest, and reports the machine's death instead of the step's silence.
pub(super) async fn watch<T>(of: Making<'_>, step: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = || Error::new(ErrorKind::GuestFailed, "The guest stopped answering");
    let result = tokio::time::timeout(BOOT_TIMEOUT, step).await;
    result
        .unwrap_or_else(|_| Err(silent()))
        .map_err(|error| of.explain(error))
}

/// Brings the guest to rest and captures it; the machine is gone afterwards.
pub(super) async fn capture(
    of: Making<'_>,
    agent: &mut AgentLink,
    rest: &HostMessage,
    dir: &Path,
) -> Result<()> {
    let come_to_rest = async {
        agent.send(&[(CONTROL_STREAM, rest.clone())]).await?;
        agent
            .expect(CONTROL_STREAM, |message| {
                matches!(message, AgentMessage::Quiesced | AgentMessage::Frozen).then_some(())
            })
            .await
    };
    watch(of, come_to_rest).await?;
    let machine = of.machine;
    let captured = async {
        lift(machine.pause().await)?;
        // The memory is in its file already; what is written are the devices, some 200 KiB.
        lift(machine.snapshot(files_in(dir)).await)
    };
    let slow = || {
        let what = format!("The capture took longer than {} s", STEP_TIMEOUT.as_secs());
        Error::new(ErrorKind::Timeout, what)
    };
    let captured = tokio::time::timeout(STEP_TIMEOUT, captured).await;
    captured.unwrap_or_else(|_| Err(slow()))?;
    lift(machine.stop(Signal::KILL, STEP_TIMEOUT).await)?;
    Ok(())
}

/// A machine whose files are all in a template's staging directory.
pub(super) fn spec_in(
    dir: &Path,
    guest: &GuestFiles,
    shape: &MachineShape,
    root: PathBuf,
    upper: &str,
) -> Result<MachineSpec> {
    let id = SandboxId::from_random(random::bytes()?);
    Ok(MachineSpec {
        memory: MemoryBacking::SharedFile(files_in(dir).memory),
        console_log: dir.join("console.log"),
        vmm_log: dir.join("vmm.log"),
        run_dir: dir.to_owned(),
        ..machine_spec(id, guest, shape, root, dir.join(upper))
    })
}
