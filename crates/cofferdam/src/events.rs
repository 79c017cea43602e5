//! What happens to the sandboxes of a store, as it happens.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use cofferdam_runtime::{Event, EventFollower, Result, system_time_ns};
use futures_core::Stream;
use tokio::time::{Instant, Sleep};

use crate::Coffer;

/// Which events a stream has.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// let hour_ago = SystemTime::now() - Duration::from_secs(3600);
/// let options = cofferdam::EventOptions::new().since(hour_ago);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventOptions {
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

impl EventOptions {
    /// Events from now on, without end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also those that came at or after this time, as far as they are kept: about the last 40,000.
    #[must_use]
    pub const fn since(mut self, time: SystemTime) -> Self {
        self.since = Some(time);
        self
    }

    /// Only those before this time. The stream ends then.
    #[must_use]
    pub const fn until(mut self, time: SystemTime) -> Self {
        self.until = Some(time);
        self
    }
}

/// A stream of events. Dropping it ends nothing else.
///
/// A reader that does not keep up stops no sandbox. What it misses because the journal does not
/// keep it any more is one event of the kind [`crate::EventKind::Missed`].
#[derive(Debug)]
pub struct Events {
    follower: EventFollower,
    options: EventOptions,
    /// When the stream ends; none for never.
    end: Option<Pin<Box<Sleep>>>,
}

impl Coffer {
    /// The events of the store's sandboxes.
    ///
    /// # Errors
    /// The file system's.
    ///
    /// # Blocking
    /// One pass over the journal, which has at most 8 MiB.
    pub fn events(&self, options: EventOptions) -> Result<Events> {
        let from_oldest = options.since.is_some();
        let follower = EventFollower::open(self.runtime.store(), from_oldest)?;
        let left = |until: SystemTime| {
            let left = until.duration_since(SystemTime::now());
            left.unwrap_or(Duration::ZERO)
        };
        // A time that is too far away for the clock is never.
        let end = options
            .until
            .and_then(|until| Instant::now().checked_add(left(until)));
        Ok(Events {
            follower,
            options,
            end: end.map(|end| Box::pin(tokio::time::sleep_until(end))),
        })
    }
}

impl Events {
    /// The next event; `None` behind the end that was asked for.
    ///
    /// # Errors
    /// The file system's.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn is_wanted(&self, event: &Event) -> bool {
        let since = self.options.since.map_or(0, system_time_ns);
        let until = self.options.until.map_or(u64::MAX, system_time_ns);
        // A gap concerns every reader; its time is that of the reading.
        event.kind == crate::EventKind::Missed || (since..until).contains(&event.time_ns)
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.follower.poll_next(context) {
                Poll::Ready(Ok(event)) if !self.is_wanted(&event) => {}
                Poll::Ready(item) => return Poll::Ready(Some(item)),
                // What was there before the end was read above.
                Poll::Pending => {
                    return match &mut self.end {
                        Some(end) => end.as_mut().poll(context).map(|()| None),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}
