//! Where events come from besides the guest and the clients: signals, new connections, time.

use std::time::Duration;

use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::supervisor::event::Event;

/// Sends SIGTERM, SIGINT and SIGHUP to the queue.
pub(crate) fn forward_signals(events: &mpsc::Sender<Event>) {
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let Ok(mut stream) = signal(kind) else {
            continue;
        };
        let events = events.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if events.send(Event::Terminated).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Sends new connections to the queue.
pub(crate) fn spawn_accept(listener: UnixListener, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if events.send(Event::Connected(stream)).await.is_err() {
                        return;
                    }
                }
                // Out of descriptors: clients wait in the backlog until one is free.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    });
}

/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn later(delay: Duration, events: &mpsc::Sender<Event>, event: Event) {
    let events = events.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = events.send(event).await;
    });
}
