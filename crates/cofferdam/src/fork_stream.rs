//! Forks as a stream: each as it is ready.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use cofferdam_runtime::{Error, ForkOptions, Result};
use futures_core::Stream;
use tokio::sync::mpsc;

use crate::{Coffer, Forks, Sandbox};

/// The work of a fork.
type Work = Pin<Box<dyn Future<Output = Result<Forks>> + Send>>;

/// A stream of forks, each as it is ready. It does its work while it is polled. An error is its last
/// item, and the forks before it can be used. When it is dropped, no further forks are made.
pub struct ForkStream {
    ready: mpsc::UnboundedReceiver<Sandbox>,
    /// None when it is done.
    work: Option<Work>,
    failure: Option<Error>,
}

impl Coffer {
    /// Forks the sandbox or the snapshot of a name or id, and yields each fork as it is ready. Errors
    /// are those of [`Self::fork`].
    #[must_use]
    pub fn fork_stream(&self, source: &str, options: ForkOptions) -> ForkStream {
        // Without a bound of its own: there are no more than were asked for.
        let (made, ready) = mpsc::unbounded_channel();
        let (coffer, source) = (self.clone(), source.to_owned());
        let work = async move {
            let made = move |fork: &Sandbox| {
                // The receiver is there for as long as this runs.
                let _ = made.send(fork.clone());
            };
            coffer.fork(&source, &options, made).await
        };
        ForkStream {
            ready,
            work: Some(Box::pin(work)),
            failure: None,
        }
    }
}

impl ForkStream {
    /// The next fork; `None` when all were made.
    ///
    /// # Errors
    /// Why there are not as many as were asked for; nothing follows.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Sandbox>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for ForkStream {
    type Item = Result<Sandbox>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(result) = work.as_mut().poll(context)
        {
            self.work = None;
            self.failure = match result {
                Ok(forks) => forks.failure,
                Err(error) => Some(error),
            };
        }
        match self.ready.poll_recv(context) {
            Poll::Ready(Some(fork)) => Poll::Ready(Some(Ok(fork))),
            Poll::Pending => Poll::Pending,
            // The work is done, and all its forks were taken.
            Poll::Ready(None) => Poll::Ready(self.failure.take().map(Err)),
        }
    }
}

impl fmt::Debug for ForkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkStream")
            .field("is_done", &self.work.is_none())
            .finish_non_exhaustive()
    }
}
