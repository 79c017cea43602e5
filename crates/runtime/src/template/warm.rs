//! Processes that run in a guest before it is captured.

use std::time::Duration;

use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, FrameKind, HostMessage, ProcessSpec, SESSION_STREAM,
    decode_control,
};
use cofferdam_types::ExitStatus;

use super::plan::StartedWorkload;
use crate::{
    base::error::{Error, ErrorKind, Result},
    link::{AgentLink, OwnedFrame, refused},
};

/// How much of a failed process's output an error shows, in bytes.
const TAIL_BYTES: usize = 2048;

/// How long a command, or the wait for a workload, may take unless something else is asked for.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Longest text to wait for; what is searched must hold it whole.
pub(crate) const MAX_READY_BYTES: usize = 4096;

/// Runs processes one after another; each must succeed within `limit`.
pub(crate) async fn warm_up(
    agent: &mut AgentLink,
    processes: &[ProcessSpec],
    limit: Duration,
) -> Result<()> {
    for (process, stream) in processes.iter().zip(SESSION_STREAM + 1..) {
        agent
            .send(&[(stream, HostMessage::WarmUp(process.clone()))])
            .await?;
        let mut output = Tail::new(TAIL_BYTES);
        let ended = async {
            loop {
                match said(agent, stream, &mut output).await? {
                    Some(AgentMessage::Exited { status }) => return Ok(status),
                    Some(AgentMessage::Failed(failure)) => return Err(refused(&failure)),
                    _ => {}
                }
            }
        };
        let Ok(ended) = tokio::time::timeout(limit, ended).await else {
            let command = process.argv.join(" ");
            let what = format!("`{command}` did not end in {} s", limit.as_secs());
            let hint = "What keeps running belongs behind the image, with `--wait-for TEXT`; \
                        what takes longer needs a longer `--timeout`";
            return Err(output.blame(Error::new(ErrorKind::GuestFailed, what).hint(hint)));
        };
        let status = ended?;
        if status != ExitStatus::Code(0) {
            let what = format!("`{}` ended with {}", process.argv.join(" "), status.code());
            return Err(output.blame(Error::new(ErrorKind::GuestFailed, what)));
        }
    }
    Ok(())
}

/// Starts the workload and waits until its output says that it is ready.
pub(super) async fn start(
    agent: &mut AgentLink,
    workload: &StartedWorkload,
    limit: Duration,
) -> Result<()> {
    let start = HostMessage::Start {
        process: workload.process.clone(),
        limits: workload.limits.clone(),
    };
    agent.send(&[(SESSION_STREAM, start)]).await?;
    // What is kept must hold the text even when it comes in pieces.
    let mut output = Tail::new(TAIL_BYTES + workload.ready.len());
    match tokio::time::timeout(limit, until_ready(agent, workload, &mut output)).await {
        Ok(ready) => ready,
        Err(_) => {
            let what = format!("The workload was not ready in {} s", limit.as_secs());
            let hint = "Check the text of `--wait-for`, or give it a longer `--timeout`";
            Err(output.blame(Error::new(ErrorKind::GuestFailed, what).hint(hint)))
        }
    }
}

async fn until_ready(
    agent: &mut AgentLink,
    workload: &StartedWorkload,
    output: &mut Tail,
) -> Result<()> {
    while !output.contains(workload.ready.as_bytes()) {
        match said(agent, SESSION_STREAM, output).await? {
            Some(AgentMessage::Exited { status }) => {
                let what = format!(
                    "The workload ended with {} before it was ready",
                    status.code()
                );
                return Err(output.blame(Error::new(ErrorKind::GuestFailed, what)));
            }
            Some(AgentMessage::Failed(failure)) => return Err(refused(&failure)),
            _ => {}
        }
    }
    Ok(())
}

/// The next frame of a session: output goes to `output`, with its credit given back.
pub(super) async fn said(
    agent: &mut AgentLink,
    stream: u32,
    output: &mut Tail,
) -> Result<Option<AgentMessage>> {
    let frame: OwnedFrame = agent.next_frame().await?;
    match frame.kind {
        FrameKind::Control if frame.stream == stream || frame.stream == CONTROL_STREAM => {
            decode_control(&frame.payload).map(Some).map_err(|error| {
                Error::new(ErrorKind::GuestFailed, "The guest broke the agent protocol")
                    .because(error)
            })
        }
        FrameKind::Data if frame.stream == stream => {
            output.push(&frame.payload);
            let bytes = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
            agent.give_credit(stream, frame.channel, bytes).await?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The last bytes of an output.
pub(super) struct Tail {
    bytes: Vec<u8>,
    limit: usize,
}

impl Tail {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // One frame more than the limit is kept, so that no text is cut at a frame's start.
        let keep = self.limit + bytes.len();
        let excess = self.bytes.len().saturating_sub(keep);
        self.bytes.drain(..excess);
    }

    fn contains(&self, text: &[u8]) -> bool {
        self.bytes
            .windows(text.len().max(1))
            .any(|window| window == text)
    }

    pub(super) fn blame(&self, error: Error) -> Error {
        let from = self.bytes.len().saturating_sub(self.limit);
        let text = String::from_utf8_lossy(&self.bytes[from..]);
        // The guest chose these bytes: no control characters of its may reach a terminal.
        let text: String = text
            .trim()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.is_empty() {
            return error;
        }
        error.because(std::io::Error::other(format!("it printed `{text}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_comes_in_pieces_is_found() {
        let mut tail = Tail::new(16);
        for piece in ["noise noise noise noise ", "lis", "teni", "ng now"] {
            assert!(!tail.contains(b"listening"));
            tail.push(piece.as_bytes());
        }
        assert!(tail.contains(b"listening"));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let mut tail = Tail::new(8);
        for _ in 0..1000 {
            tail.push(b"0123456789");
        }
        assert!(tail.bytes.len() <= 18);
        tail.push(b"end");
        assert!(tail.bytes.ends_with(b"end"));
    }

    #[test]
    fn an_error_shows_the_output_without_control_characters() {
        let mut tail = Tail::new(64);
        tail.push(b"\x1b[31mred\n");
        let error = tail.blame(Error::new(ErrorKind::GuestFailed, "It failed"));
        assert_eq!(error.chain(), "It failed: it printed ` [31mred`");
    }
}
