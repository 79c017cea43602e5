//! Processes that a machine runs only to be quicker later.
//!
//! None of them is a reason to fail. The guest's notes say which failed or took too long, and a
//! sandbox shows them. Only a machine that is lost meanwhile is an error, and then its maker does
//! without them.

use std::time::Duration;

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, IdentityCause, ProcessSpec, SESSION_STREAM,
};
use cofferdam_types::{ExitStatus, Signal};

use super::{
    BOOT_TIMEOUT,
    warm::{Tail, said},
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result},
        task::log_line,
    },
    link::{AgentLink, adopt, refused},
};

/// How long one process may take. An emulated JVM on a busy host takes some 10 s.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a killed process may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a standby does what a claim does. The second time is as quick as any later one.
const ROUNDS: u32 = 2;

/// How one process ended.
enum Outcome {
    Done,
    /// The image has no such program.
    Absent,
    Failed(String),
}

/// Runs processes one after another, and notes which of them failed.
///
/// # Errors
/// When the machine is lost.
pub(crate) async fn run_warm_ups(agent: &mut AgentLink, processes: &[ProcessSpec]) -> Result<()> {
    for process in processes {
        if let Outcome::Failed(why) = run(agent, process).await? {
            let line = process.argv.join(" ");
            agent.note(format!("`{line}` could not be run ahead: {why}"));
        }
    }
    Ok(())
}

/// Does what a claim does to a standby's machine: a new identity, and programs that start and end.
/// The real claim gives it another identity.
///
/// # Errors
/// When the machine is lost or does not answer.
pub(crate) async fn warm_up_claim(
    agent: &mut AgentLink,
    programs: &[ProcessSpec],
    has_network: bool,
) -> Result<()> {
    for _ in 0..ROUNDS {
        agent.ready(BOOT_TIMEOUT).await?;
        let network = has_network.then(crate::network::of_template);
        let identity = adopt("standby", IdentityCause::Start, network.as_ref())?;
        let identity = HostMessage::Adopt(identity);
        ask(agent, identity, &AgentMessage::Adopted).await?;
        for program in programs {
            // An image without these programs is none the slower.
            if let Outcome::Failed(why) = run(agent, program).await? {
                log_line(&format!("`{}` failed: {why}", program.argv.join(" ")));
            }
        }
        quiesce(agent).await?;
    }
    Ok(())
}

/// Brings the guest to rest, with what a start needs made ahead.
///
/// # Errors
/// When the machine is lost, or the guest does not rest within [`BOOT_TIMEOUT`].
pub(crate) async fn quiesce(agent: &mut AgentLink) -> Result<()> {
    ask(agent, HostMessage::Quiesce, &AgentMessage::Quiesced).await
}

/// Sends one request and waits for its answer, at most [`BOOT_TIMEOUT`].
async fn ask(agent: &mut AgentLink, request: HostMessage, wanted: &AgentMessage) -> Result<()> {
    let steps = async {
        agent.send(&[(CONTROL_STREAM, request)]).await?;
        agent
            .expect(CONTROL_STREAM, |message| (message == wanted).then_some(()))
            .await
    };
    tokio::time::timeout(BOOT_TIMEOUT, steps)
        .await
        .unwrap_or_else(|_| {
            let seconds = BOOT_TIMEOUT.as_secs();
            let what = format!("The guest did not answer in {seconds} s");
            Err(Error::new(ErrorKind::GuestFailed, what))
        })
}

async fn run(agent: &mut AgentLink, process: &ProcessSpec) -> Result<Outcome> {
    /// Free: no session outlives its process here.
    const STREAM: u32 = SESSION_STREAM + 1;
    let start = HostMessage::Rehearse(process.clone());
    agent.send(&[(STREAM, start)]).await?;
    if let Ok(outcome) = tokio::time::timeout(TIMEOUT, end(agent, STREAM)).await {
        return outcome;
    }
    let signal = Signal::KILL.number();
    agent
        .send(&[(STREAM, HostMessage::Signal { signal })])
        .await?;
    let ended = tokio::time::timeout(KILL_TIMEOUT, end(agent, STREAM)).await;
    ended.map_err(|_| Error::new(ErrorKind::GuestFailed, "The guest stopped answering"))??;
    let seconds = TIMEOUT.as_secs();
    Ok(Outcome::Failed(format!("it took longer than {seconds} s")))
}

/// Waits for the end of a session.
async fn end(agent: &mut AgentLink, stream: u32) -> Result<Outcome> {
    /// Bytes of output that a failure shows.
    const TAIL_BYTES: usize = 512;
    let mut output = Tail::new(TAIL_BYTES);
    loop {
        match said(agent, stream, &mut output).await? {
            Some(AgentMessage::Exited {
                status: ExitStatus::Code(0),
            }) => return Ok(Outcome::Done),
            Some(AgentMessage::Exited { status }) => {
                let what = format!("it ended with {}", status.code());
                let error = output.blame(Error::new(ErrorKind::GuestFailed, what));
                return Ok(Outcome::Failed(error.chain()));
            }
            Some(AgentMessage::Failed(failure)) => {
                let error = refused(&failure);
                return Ok(match error.kind() {
                    ErrorKind::ProgramNotFound => Outcome::Absent,
                    _ => Outcome::Failed(error.chain()),
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_rest_is_not_waited_for_without_end() {
        let (ours, _guest) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut agent = AgentLink::new(ours).unwrap();
        let error = quiesce(&mut agent).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GuestFailed);
    }
}
