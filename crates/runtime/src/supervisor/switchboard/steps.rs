//! The steps of a pause, of its end and of a capture: a task that talks to the agent and the
//! machine in turn.
//!
//! Invariant: when a step has failed, the guest has been sent all that lets it go on. The agent
//! and QEMU work off what they are sent in order, so a freeze that is late is followed by its thaw,
//! and a stop by its continuation.

use std::time::{Duration, Instant};

use cofferdam_backend::{Capture, CapturePlan};
use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{AgentMessage, HostMessage};

use tokio::sync::oneshot;

use super::{
    dialog::{Guest, unexpected},
    trim,
};
use crate::{
    base::error::{Error, ErrorKind, Result, lift},
    host::silence::{self, Part},
    supervisor::event::Outcome,
};

/// How long the guest may take for an answer that waits for no disk. It takes milliseconds; the
/// rest is for a host with far more guests than processors.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a guest that is to go on after a failure is waited for. It goes on later all the same.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Dirty bytes with which a guest may be frozen for its disk: twice the agent's limit for
/// processes that write (`write_back` there), which is reached on every disk.
const DIRTY_BYTES: u64 = 16 << 20;

/// How often a guest is asked for its dirty bytes.
const DIRTY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a disk may take none of the dirty bytes.
const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes per second of the slowest disk that is waited for.
const SLOWEST_DISK_BYTES: u64 = 256 << 10;

/// Percent of one processor that the processes of a guest have while it is captured, if they change
/// more than a pause has room for. With 3, a busy host's copy of 1.5 GiB took too long for them.
const HELD_BACK_PERCENT: u32 = 1;

/// Stops the processes, then the vCPUs.
pub(super) async fn pause(guest: Guest) -> Result<Outcome> {
    guest.expect_running_process()?;
    let began = Instant::now();
    if let Err(error) = guest.freeze(false, AGENT_TIMEOUT).await {
        guest.thaw_unwaited().await;
        return Err(error);
    }
    if let Err(error) = lift(guest.machine.pause().await) {
        guest.take_back().await;
        return Err(error);
    }
    Ok(Outcome {
        still: began.elapsed(),
    })
}

/// Lets all go on, whether it is frozen or not.
pub(super) async fn unpause(guest: Guest) -> Result<Outcome> {
    let began = Instant::now();
    guest.go_on().await?;
    Ok(Outcome {
        still: began.elapsed(),
    })
}

/// Captures a guest that runs, or one that is `paused` and stays so.
pub(super) async fn capture(
    guest: Guest,
    plan: CapturePlan,
    disk_only: bool,
    paused: bool,
) -> Result<Outcome> {
    guest.expect_running_process()?;
    if paused {
        let mut capture = lift(guest.machine.begin_capture(plan).await)?;
        let began = Instant::now();
        lift(capture.take().await)?;
        let still = began.elapsed();
        lift(capture.settle().await)?;
        return Ok(Outcome { still });
    }
    let (mut capture, limit) = match guest.prepare(plan, disk_only).await {
        Ok(prepared) => prepared,
        Err(error) => {
            // It may write early by now, and a thaw ends that too.
            guest.thaw_unwaited().await;
            return Err(error);
        }
    };
    let still = guest.still(capture.as_mut(), disk_only, limit).await?;
    lift(capture.settle().await)?;
    Ok(Outcome { still })
}

impl Guest {
    /// Fails at once if the machine's process is stopped: nothing was asked yet.
    fn expect_running_process(&self) -> Result<()> {
        let stopped = silence::stopped(Part::Machine, &self.sandbox, self.machine.pid());
        stopped.map_or(Ok(()), Err)
    }

    /// Does ahead what can be done while the guest runs; returns how long its freeze may take.
    async fn prepare(
        &self,
        plan: CapturePlan,
        disk_only: bool,
    ) -> Result<(Box<dyn Capture>, Duration)> {
        trim::before_capture(self).await;
        if disk_only {
            self.write_back().await?;
        }
        let mut capture = lift(self.machine.begin_capture(plan).await)?;
        self.hold_back(capture.as_mut()).await?;
        let mut limit = AGENT_TIMEOUT;
        if disk_only {
            let left = self.write_back().await?;
            limit += Duration::from_secs(left / SLOWEST_DISK_BYTES);
        }
        Ok((capture, limit))
    }

    /// Slows the guest's processes down if what they change does not fit a pause, and copies that
    /// again. The freeze or a thaw ends that. A pause that is still too long is better than none.
    async fn hold_back(&self, capture: &mut dyn Capture) -> Result<()> {
        if lift(capture.fits().await)? {
            return Ok(());
        }
        let percent = HELD_BACK_PERCENT;
        match self
            .ask(&HostMessage::HoldBack { percent }, AGENT_TIMEOUT)
            .await?
        {
            AgentMessage::Dirty { .. } => lift(capture.catch_up().await),
            other => Err(unexpected(&other)),
        }
    }

    /// Freezes the guest while the capture takes its memory and disk; returns for how long.
    async fn still(
        &self,
        capture: &mut dyn Capture,
        disk_only: bool,
        limit: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        if let Err(error) = self.freeze(disk_only, limit).await {
            self.thaw_unwaited().await;
            return Err(error);
        }
        if let Err(error) = self.take(capture).await {
            self.take_back().await;
            return Err(error);
        }
        self.go_on().await?;
        Ok(began.elapsed())
    }

    /// Has the guest write what is dirty while its processes run, as long as its disk takes some of
    /// it; returns the bytes that are left.
    async fn write_back(&self) -> Result<u64> {
        let mut least = u64::MAX;
        let mut progress = tokio::time::Instant::now();
        loop {
            let question = HostMessage::WriteBack { eager: true };
            let left = match self.ask(&question, AGENT_TIMEOUT).await? {
                AgentMessage::Dirty { bytes } => bytes,
                other => return Err(unexpected(&other)),
            };
            if left <= DIRTY_BYTES {
                return Ok(left);
            }
            if left < least {
                least = left;
                progress = tokio::time::Instant::now();
            } else if progress.elapsed() > NO_PROGRESS_TIMEOUT {
                let (mib, seconds) = (left >> 20, NO_PROGRESS_TIMEOUT.as_secs());
                let what = format!(
                    "The guest's disk has taken nothing of {mib} MiB that are to be written for {seconds} s"
                );
                return Err(Error::new(ErrorKind::GuestFailed, what)
                    .hint("Look at the load of the host's disk, and try again"));
            }
            tokio::time::sleep(DIRTY_INTERVAL).await;
        }
    }

    async fn take(&self, capture: &mut dyn Capture) -> Result<()> {
        lift(self.machine.pause().await)?;
        lift(capture.take().await)
    }

    async fn freeze(&self, sync: bool, limit: Duration) -> Result<()> {
        self.outbox.hold();
        match self.ask(&HostMessage::Freeze { sync }, limit).await? {
            AgentMessage::Frozen => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The vCPUs run, then the processes, with the right time. The agent gets its thaw
    /// whatever the machine answers, and thaws when the vCPUs run.
    async fn go_on(&self) -> Result<()> {
        let resumed = lift(self.machine.resume().await);
        let thawed = match self.wait(self.thaw()?, AGENT_TIMEOUT).await {
            Ok(AgentMessage::Thawed) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(error),
        };
        resumed.and(thawed)
    }

    /// After a failure: the vCPUs run, then the processes.
    async fn take_back(&self) {
        // The failure before it is the one to report.
        let _ = self.machine.resume().await;
        self.thaw_unwaited().await;
    }

    /// After a failure before the vCPUs were stopped. Waits only as long as a guest takes that is
    /// there; another one thaws when it comes to it.
    async fn thaw_unwaited(&self) {
        if let Ok(answer) = self.thaw() {
            let _ = tokio::time::timeout(TAKE_BACK_TIMEOUT, answer).await;
        }
    }

    /// Tells the agent to thaw, and sends what was held.
    fn thaw(&self) -> Result<oneshot::Receiver<AgentMessage>> {
        let thaw = HostMessage::Thaw {
            unix_ns: unix_time_ns(),
        };
        let answer = self.wire.ask(&thaw)?;
        self.outbox.release();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
