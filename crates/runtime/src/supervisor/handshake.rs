//! What is said to a guest so that its workload runs: a first start, or the continuation of a
//! moment that was captured.

use std::time::{Duration, Instant};

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, Identity, IdentityCause, RootSpec, SESSION_STREAM,
    Stage, TerminalSize, TmpfsSpec, UpperDevice,
};
use cofferdam_types::{ResourceLimits, SandboxSpec, UpperSpec};

use super::{AgentLink, hook};
use crate::{
    error::{Error, ErrorKind, Result},
    random,
    store::{Entry, SandboxRecord},
};

/// How long the guest may take for mounts and the workload's start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Fresh entropy for a guest: twice the size of the kernel's pool.
const ENTROPY_BYTES: usize = 64;

/// Measures the stages of a start.
pub(super) struct Clock {
    last: Instant,
    pub(super) stages: Vec<Stage>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            last: Instant::now(),
            stages: Vec::new(),
        }
    }

    pub(super) fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let micros = u64::try_from((now - self.last).as_micros()).unwrap_or(u64::MAX);
        self.stages.push(Stage {
            name: name.to_owned(),
            micros,
        });
        self.last = now;
    }
}

/// Gives the guest its identity and starts the workload, on a terminal of this size if it has
/// one. All messages go at once: the agent works them off in order and, after one that failed,
/// refuses the rest.
pub(super) async fn start_workload(
    agent: &mut AgentLink,
    entry: &Entry,
    terminal: Option<TerminalSize>,
    root_is_mounted: bool,
    clock: &mut Clock,
) -> Result<()> {
    let record = &entry.record;
    let mut messages = vec![(
        CONTROL_STREAM,
        HostMessage::Adopt(identity_of(record, IdentityCause::Start)?),
    )];
    // In a template's root only what is this sandbox's own is left to mount.
    let mounts = !root_is_mounted || has_mounts(&record.spec);
    if mounts {
        messages.push((
            CONTROL_STREAM,
            HostMessage::MountRoot(root_spec(&record.spec)),
        ));
    }
    let mut process = record.process.clone();
    if let (Some(size), Some(terminal)) = (&mut process.terminal, terminal) {
        *size = terminal;
    }
    messages.push((
        SESSION_STREAM,
        HostMessage::Start {
            process,
            limits: workload_limits(&record.spec),
        },
    ));
    let steps = async {
        agent.send(&messages).await?;
        expect(agent, &AgentMessage::Adopted).await?;
        clock.lap("identity");
        if mounts {
            expect(agent, &AgentMessage::RootMounted).await?;
            clock.lap("root");
        }
        agent
            .expect(SESSION_STREAM, |m| {
                matches!(m, AgentMessage::Started { .. }).then_some(())
            })
            .await?;
        clock.lap("workload");
        Ok(())
    };
    within_start(steps).await
}

/// Gives a guest that was captured in mid-life an identity of its own, then lets its processes go
/// on. Until the last answer none of them runs.
pub(super) async fn resume_workload(
    agent: &mut AgentLink,
    entry: &Entry,
    cause: IdentityCause,
    hook: Option<&str>,
    clock: &mut Clock,
) -> Result<()> {
    let identity = identity_of(&entry.record, cause)?;
    let steps = async {
        agent
            .send(&[
                (CONTROL_STREAM, HostMessage::Adopt(identity)),
                (CONTROL_STREAM, HostMessage::Inherit),
            ])
            .await?;
        expect(agent, &AgentMessage::Adopted).await?;
        expect(agent, &AgentMessage::Inherited).await?;
        clock.lap("identity");
        let limits = workload_limits(&entry.record.spec);
        let has_less = limits.cpu_quota_millis.is_some() || limits.memory.is_some();
        if has_less && entry.record.forked_from.is_some() {
            agent
                .send(&[(CONTROL_STREAM, HostMessage::Limit(limits))])
                .await?;
            expect(agent, &AgentMessage::Limited).await?;
            clock.lap("limits");
        }
        if let Some(command) = hook {
            hook::run(agent, &entry.record, command).await?;
            clock.lap("hook");
        }
        let thaw = HostMessage::Thaw {
            unix_ns: unix_time_ns(),
        };
        agent.send(&[(CONTROL_STREAM, thaw)]).await?;
        expect(agent, &AgentMessage::Thawed).await?;
        clock.lap("workload");
        Ok(())
    };
    within_start(steps).await
}

async fn expect(agent: &mut AgentLink, wanted: &AgentMessage) -> Result<()> {
    agent
        .expect(CONTROL_STREAM, |m| (m == wanted).then_some(()))
        .await
}

async fn within_start(steps: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(START_TIMEOUT, steps)
        .await
        .unwrap_or_else(|_| {
            let what = format!(
                "The guest did not start the workload in {} s",
                START_TIMEOUT.as_secs()
            );
            Err(Error::new(ErrorKind::GuestFailed, what))
        })
}

/// A sandbox's identity with the host's clock of this moment. Its machine id is the start of its
/// own, so that it is the same at every start and after a restore, and a fork's is another.
fn identity_of(record: &SandboxRecord, cause: IdentityCause) -> Result<Identity> {
    /// Length of a machine id; machine-id(5).
    const DIGITS: usize = 32;
    let mut machine_id = record.id.to_string();
    machine_id.truncate(DIGITS);
    let origin = record.forked_from.as_ref();
    let index = origin.map(|origin| origin.index);
    Ok(Identity {
        machine_id,
        fork_index: index.filter(|index| *index > 0 && cause == IdentityCause::Fork),
        ..adopt(&record.hostname, cause)?
    })
}

/// A new identity with the host's clock of this moment.
pub(crate) fn adopt(hostname: &str, cause: IdentityCause) -> Result<Identity> {
    Ok(Identity {
        entropy: random::bytes::<ENTROPY_BYTES>()?.to_vec(),
        machine_id: hex_id()?,
        hostname: hostname.to_owned(),
        unix_ns: unix_time_ns(),
        cause,
        generation: hex_id()?,
        fork_index: None,
    })
}

/// 32 random hex digits.
fn hex_id() -> Result<String> {
    let bytes: [u8; 16] = random::bytes()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a sandbox wants mounts, or sizes of them, that templates do not have.
fn has_mounts(spec: &SandboxSpec) -> bool {
    !spec.tmpfs.is_empty() || spec.shm_size != SandboxSpec::default().shm_size
}

fn root_spec(spec: &SandboxSpec) -> RootSpec {
    RootSpec {
        upper: match spec.upper {
            UpperSpec::Disk(_) => UpperDevice::Disk,
            UpperSpec::ReadOnly => UpperDevice::ReadOnly,
        },
        shm_bytes: spec.shm_size.bytes(),
        tmpfs: spec
            .tmpfs
            .iter()
            .map(|mount| TmpfsSpec {
                target: mount.target.clone(),
                size_bytes: mount.size.map(cofferdam_types::ByteSize::bytes),
                mode: mount.mode,
                read_only: mount.read_only,
                exec: mount.exec,
                owner: (mount.uid, mount.gid),
            })
            .collect(),
    }
}

/// The limits with the quota that a fractional number of processors means.
pub(crate) fn workload_limits(spec: &SandboxSpec) -> ResourceLimits {
    let mut limits = spec.limits.clone();
    limits.cpu_quota_millis = limits.cpu_quota_millis.or_else(|| spec.cpus.quota_millis());
    limits
}
