//! An asynchronous call made again and again, behind a poll function.
//!
//! A call that is under way is kept when its caller gives up waiting, so that nothing is lost.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// A call that is under way, which returns its owner with its result.
type Call<S, T> = Pin<Box<dyn Future<Output = (S, T)> + Send>>;

/// Something with an asynchronous call.
pub(crate) struct Polled<S, T> {
    // One of both is there, but during a poll.
    idle: Option<S>,
    call: Option<Call<S, T>>,
}

impl<S: Send + 'static, T: 'static> Polled<S, T> {
    pub(crate) const fn new(idle: S) -> Self {
        Self {
            idle: Some(idle),
            call: None,
        }
    }

    /// Goes on with the call that is under way, or makes one; returns its result.
    pub(crate) fn poll<F>(
        &mut self,
        context: &mut Context<'_>,
        call: impl FnOnce(S) -> F,
    ) -> Poll<T>
    where
        F: Future<Output = (S, T)> + Send + 'static,
    {
        if let Some(idle) = self.idle.take() {
            self.call = Some(Box::pin(call(idle)));
        }
        // A poll after a panic in a call is never answered.
        let Some(call) = &mut self.call else {
            return Poll::Pending;
        };
        call.as_mut().poll(context).map(|(idle, result)| {
            self.call = None;
            self.idle = Some(idle);
            result
        })
    }

    /// Goes on with the call that is under way; returns its result, or none if there is none.
    pub(crate) fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(call) = &mut self.call else {
            return Poll::Ready(None);
        };
        call.as_mut().poll(context).map(|(idle, result)| {
            self.call = None;
            self.idle = Some(idle);
            Some(result)
        })
    }

    /// What makes the calls, unless one is under way.
    pub(crate) fn into_idle(self) -> Option<S> {
        self.idle
    }
}

impl<S, T> fmt::Debug for Polled<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polled")
            .field("is_busy", &self.call.is_some())
            .finish_non_exhaustive()
    }
}
