//! A command that runs while the workload is frozen: the hook of a fork or a restore.
//!
//! It has the workload's namespaces and a cgroup of its own, since the workload's is frozen. The
//! agent waits for it and does nothing else: no process of the user runs that could want
//! something. What the command leaves running is killed, so that nothing of it is outside the
//! workload's limits afterwards.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use cofferdam_proto::{FailureKind, MAX_HOOK_OUTPUT_BYTES, ProcessSpec};
use cofferdam_types::ExitStatus;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Context, Home, Process, Spawner, reap, spawn};
use crate::{
    cgroup,
    failure::{OrFail, Result},
};

/// How long killed processes may take to go.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that are read from a pipe at once.
const READ_BYTES: usize = 4096;

/// Reads in a row, so that a command that writes without end does not outlast its time.
const MAX_READS: usize = 32;

/// How a hook ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when it took too long.
    pub(crate) status: Option<ExitStatus>,
    /// The end of its output.
    pub(crate) output: Vec<u8>,
}

/// Runs `spec` to its end, at most for `timeout`.
pub(crate) fn run(
    context: &Context<'_>,
    spec: &ProcessSpec,
    spawner: &mut Spawner,
    timeout: Duration,
) -> Result<Ended> {
    let group = cgroup::HookGroup::make()?;
    let context = Context {
        home: Home::Given(group.as_fd()),
        ..*context
    };
    let deadline = Instant::now() + timeout;
    let (process, stdio) = match spawn(&context, spec, spawner) {
        Ok(spawned) => spawned,
        Err(failure) => {
            group.kill(KILL_TIMEOUT)?;
            return Err(failure);
        }
    };
    let mut outputs: Vec<File> = stdio
        .outputs
        .into_iter()
        .map(|(_, fd)| File::from(fd))
        .collect();
    let mut kept = Vec::new();
    let in_time = wait(&process, &mut outputs, &mut kept, deadline)?;
    // Also after its end: its children may live on.
    group.kill(KILL_TIMEOUT)?;
    let status = reap(&process.pidfd);
    for output in &mut outputs {
        drain(output, &mut kept)?;
    }
    Ok(Ended {
        status: in_time.then_some(status),
        output: kept,
    })
}

/// Waits for the end of `process` and keeps what comes; `false` when it is not in time.
fn wait(
    process: &Process,
    outputs: &mut Vec<File>,
    kept: &mut Vec<u8>,
    deadline: Instant,
) -> Result<bool> {
    let failed = || "Could not wait for the hook";
    let kind = FailureKind::Internal;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).or_fail(kind, failed)?;
        let mut fds = vec![PollFd::new(&process.pidfd, PollFlags::IN)];
        fds.extend(
            outputs
                .iter()
                .map(|output| PollFd::new(output, PollFlags::IN)),
        );
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).or_fail(kind, failed),
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
        drop(fds);
        let mut open = Vec::new();
        for mut output in outputs.drain(..) {
            if drain(&mut output, kept)? {
                open.push(output);
            }
        }
        *outputs = open;
    }
}

/// Takes what there is, or the first part of it; `false` at the end of the file.
fn drain(output: &mut File, kept: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; READ_BYTES];
    for _ in 0..MAX_READS {
        match output.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => keep(kept, buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error)
                    .or_fail(FailureKind::Internal, || "Could not read the hook's output");
            }
        }
    }
    Ok(true)
}

/// Appends, and forgets the oldest beyond the limit.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    let excess = kept.len().saturating_sub(MAX_HOOK_OUTPUT_BYTES);
    kept.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_output_is_bounded_and_the_newest() {
        let mut kept = Vec::new();
        for _ in 0..100 {
            keep(&mut kept, &[b'x'; 100]);
        }
        keep(&mut kept, b"end");
        assert_eq!(kept.len(), MAX_HOOK_OUTPUT_BYTES);
        assert!(kept.ends_with(b"end"));
    }
}
