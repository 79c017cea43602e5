//! What live sandboxes use.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use cofferdam_runtime::{
    Error, ErrorKind, Incoming, LiveStatus, NetworkCounters, Receiver, Request, Result,
    SupervisorMessage,
};
use cofferdam_types::ByteSize;
use futures_core::Stream;
use serde::Serialize;
use tokio::time::Instant;

use crate::{Sandbox, polled::Polled};

/// What a live sandbox uses at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SandboxStats {
    /// Share of one processor since the sample before it, in percent.
    pub cpu_percent: f64,
    /// Processor time of the machine's program since its start.
    #[serde(serialize_with = "millis", rename = "cpu_time_ms")]
    pub cpu_time: Duration,
    /// Resident memory of the machine's program in bytes.
    pub memory_bytes: u64,
    /// Memory of the guest in bytes.
    pub memory_limit_bytes: u64,
    /// Processes that were started through the supervisor and run.
    pub sessions: u32,
    /// What its network has carried since its start; none without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkCounters>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn millis<S: serde::Serializer>(
    time: &Duration,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Samples of what a sandbox uses, sent by its supervisor. The stream ends with the sandbox.
/// Dropping it ends nothing else. A reader that is slow gets fewer samples.
#[derive(Debug)]
pub struct StatsStream {
    incoming: Polled<Receiver, Result<Incoming>>,
    memory: ByteSize,
    last: Option<(u64, Instant)>,
    is_over: bool,
}

impl Sandbox {
    /// What it uses now; the share of the processor is since the last look at it, by whichever
    /// program.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub async fn stats(&self) -> Result<SandboxStats> {
        let runtime = &self.coffer().runtime;
        match runtime.request(&self.now()?, Request::Status).await?.1 {
            SupervisorMessage::Status(status) => {
                let percent = status.cpu_percent;
                Ok(stats(&status, percent, self.record().spec.memory))
            }
            _ => Err(unexpected()),
        }
    }

    /// What it uses, at each `interval` of at least 100 ms. The first sample comes after one
    /// interval.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub async fn stats_stream(&self, interval: Duration) -> Result<StatsStream> {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let runtime = &self.coffer().runtime;
        let request = Request::WatchStatus { interval_ms };
        let (connection, first) = runtime.request(&self.now()?, request).await?;
        let SupervisorMessage::Status(status) = first else {
            return Err(unexpected());
        };
        Ok(StatsStream {
            incoming: Polled::new(connection.split().0),
            memory: self.record().spec.memory,
            last: Some((status.cpu_time_ms, Instant::now())),
            is_over: false,
        })
    }
}

impl StatsStream {
    /// The next sample; `None` when the sandbox has ended.
    ///
    /// # Errors
    /// When the supervisor breaks its protocol; nothing follows.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<SandboxStats>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn sample(&mut self, status: &LiveStatus) -> SandboxStats {
        let now = Instant::now();
        let percent = self.last.map_or(0.0, |(cpu_time_ms, at)| {
            let used = Duration::from_millis(status.cpu_time_ms.saturating_sub(cpu_time_ms));
            100.0 * used.as_secs_f64() / now.duration_since(at).as_secs_f64().max(0.001)
        });
        self.last = Some((status.cpu_time_ms, now));
        stats(status, percent, self.memory)
    }
}

impl Stream for StatsStream {
    type Item = Result<SandboxStats>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = loop {
            if self.is_over {
                return Poll::Ready(None);
            }
            let next = self.incoming.poll(context, async |mut incoming: Receiver| {
                let next = incoming.next().await;
                (incoming, next)
            });
            let next = match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next,
            };
            match next {
                Ok(Incoming::Message(SupervisorMessage::Status(status))) => {
                    break Some(Ok(self.sample(&status)));
                }
                Ok(Incoming::Message(SupervisorMessage::Done)) => break None,
                Ok(_) => {}
                // The supervisor was killed, and the sandbox with it.
                Err(error) if error.kind() == ErrorKind::SupervisorLost => break None,
                Err(error) => break Some(Err(error)),
            }
        };
        self.is_over = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

fn stats(status: &LiveStatus, cpu_percent: f64, memory: ByteSize) -> SandboxStats {
    SandboxStats {
        cpu_percent,
        cpu_time: Duration::from_millis(status.cpu_time_ms),
        memory_bytes: status.memory_bytes,
        memory_limit_bytes: memory.bytes(),
        sessions: status.sessions,
        network: status.network,
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Bug, "The supervisor answered something else")
}
