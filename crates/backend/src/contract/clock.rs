//! Waiting that ends, without an async runtime.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    task::{Poll, Waker},
    thread,
};

use super::{Harness, Violation};

/// The future's value, or a violation if it takes longer than any sound implementation does.
pub(super) async fn bounded<T>(
    harness: &dyn Harness,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, Violation> {
    let limit = harness.limit();
    let state = Arc::new(Mutex::new(Alarm::default()));
    let (finished, alarm) = channel::<()>();
    let ringing = Arc::clone(&state);
    thread::spawn(move || {
        if alarm.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let mut alarm = ringing.lock().unwrap_or_else(PoisonError::into_inner);
            alarm.rung = true;
            if let Some(waker) = alarm.waker.take() {
                waker.wake();
            }
        }
    });
    let mut future = pin!(future);
    let value = poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        let mut alarm = state.lock().unwrap_or_else(PoisonError::into_inner);
        alarm.waker = Some(context.waker().clone());
        if alarm.rung {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await;
    drop(finished);
    value.ok_or_else(|| Violation::new(format!("{what} took longer than {limit:?}")))
}

#[derive(Default)]
struct Alarm {
    rung: bool,
    waker: Option<Waker>,
}

/// Both futures' values, run at once.
pub(super) async fn both<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut a, mut b) = (None, None);
    poll_fn(|context| {
        if a.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            a = Some(value);
        }
        if b.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            b = Some(value);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (one, other) => {
                (a, b) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}
