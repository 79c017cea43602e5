//! What is said to a guest so that its workload runs: a first start, or the continuation of a
//! moment that was captured.

use std::time::Duration;

use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, GuestNetwork, HostMessage, Identity, IdentityCause,
    NetworkIdentity, SESSION_STREAM, TerminalSize,
};

use super::{AgentLink, Clock, GuestSetup, hook};
use crate::base::{
    error::{Error, ErrorKind, Result},
    random,
};

/// How long the guest may take for mounts and the workload's start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Fresh entropy for a guest: twice the size of the kernel's pool.
const ENTROPY_BYTES: usize = 64;

/// Gives the guest its identity and starts the workload, on a terminal of this size if it has
/// one. All messages go at once: the agent works them off in order and, after one that failed,
/// refuses the rest.
pub(crate) async fn start_workload(
    agent: &mut AgentLink,
    setup: &GuestSetup,
    terminal: Option<TerminalSize>,
    root_is_mounted: bool,
    clock: &mut Clock,
) -> Result<()> {
    let mut messages = vec![(
        CONTROL_STREAM,
        HostMessage::Adopt(identity_of(setup, IdentityCause::Start)?),
    )];
    // In a template's root only what is this sandbox's own is left to mount.
    let mounts = !root_is_mounted || setup.has_mounts;
    if mounts {
        messages.push((CONTROL_STREAM, HostMessage::MountRoot(setup.root.clone())));
    }
    if let Some(message) = trust(setup) {
        messages.push(message);
    }
    let mut process = setup.process.clone();
    if let (Some(size), Some(terminal)) = (&mut process.terminal, terminal) {
        *size = terminal;
    }
    messages.push((
        SESSION_STREAM,
        HostMessage::Start {
            process,
            limits: setup.limits.clone(),
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
        if setup.trust.is_some() {
            expect(agent, &AgentMessage::Trusted).await?;
            clock.lap("trust");
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
pub(crate) async fn resume_workload(
    agent: &mut AgentLink,
    setup: &GuestSetup,
    cause: IdentityCause,
    hook: Option<&str>,
    clock: &mut Clock,
) -> Result<()> {
    let identity = identity_of(setup, cause)?;
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
        if setup.narrows_a_fork() {
            let limit = HostMessage::Limit(setup.limits.clone());
            agent.send(&[(CONTROL_STREAM, limit)]).await?;
            expect(agent, &AgentMessage::Limited).await?;
            clock.lap("limits");
        }
        if let Some(message) = trust(setup) {
            agent.send(&[message]).await?;
            expect(agent, &AgentMessage::Trusted).await?;
            clock.lap("trust");
        }
        if let Some(command) = hook {
            hook::run(agent, setup, command).await?;
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

/// The message with the certificate that programs of the guest have to trust.
fn trust(setup: &GuestSetup) -> Option<(u32, HostMessage)> {
    let certificate = setup.trust.clone()?;
    Some((CONTROL_STREAM, HostMessage::Trust { certificate }))
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

/// A sandbox's identity with the host's clock of this moment.
fn identity_of(setup: &GuestSetup, cause: IdentityCause) -> Result<Identity> {
    Ok(Identity {
        machine_id: setup.machine_id.clone(),
        network: setup.network.as_ref().map(NetworkIdentity::new),
        fork_index: setup.fork_index.filter(|_| cause == IdentityCause::Fork),
        ..adopt(&setup.hostname, cause, None)?
    })
}

/// A new identity with the host's clock of this moment, for a guest with this network.
pub(crate) fn adopt(
    hostname: &str,
    cause: IdentityCause,
    network: Option<&GuestNetwork>,
) -> Result<Identity> {
    Ok(Identity {
        entropy: random::bytes::<ENTROPY_BYTES>()?.to_vec(),
        machine_id: hex_id()?,
        hostname: hostname.to_owned(),
        unix_ns: unix_time_ns(),
        cause,
        generation: hex_id()?,
        fork_index: None,
        network: network.map(NetworkIdentity::new),
    })
}

/// 32 random hex digits.
fn hex_id() -> Result<String> {
    let bytes: [u8; 16] = random::bytes()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
