//! The two tasks of a byte stream.

use std::{io, sync::Arc};

use cofferdam_runtime::{
    ClientMessage, Error, ErrorKind, Incoming, Outgoing, Receiver, SupervisorMessage,
};

use super::{Sending, Shared};
use crate::Sandbox;

/// How a stream has ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Both directions are at their end.
    Closed,
    /// The sandbox has ended.
    SandboxEnded,
    Failed(Error),
}

/// Puts what comes into the stream until its end, and then that.
pub(super) async fn receive(mut receiver: Receiver, sandbox: Sandbox, shared: Arc<Shared>) {
    let end = match take_in(&mut receiver, &shared).await {
        None => return,
        Some(Ending::Closed) => Ok(()),
        Some(Ending::SandboxEnded) => {
            let what = format!("Sandbox `{}` has ended", sandbox.name());
            Err((io::ErrorKind::ConnectionAborted, what))
        }
        Some(Ending::Failed(error)) => Err(match error.kind() {
            ErrorKind::ConnectionReset => (io::ErrorKind::ConnectionReset, error.chain()),
            ErrorKind::SupervisorLost => {
                let error = sandbox.what_became(error).await;
                (io::ErrorKind::ConnectionAborted, error.chain())
            }
            _ => (io::ErrorKind::ConnectionAborted, error.chain()),
        }),
    };
    shared.has_ended(end);
}

/// Puts what comes into the stream until its end, or until nothing of it is of use. A stream that
/// was dropped is held until all of its bytes are sent, because the credit for them comes this way.
pub(super) async fn take_in(receiver: &mut Receiver, shared: &Shared) -> Option<Ending> {
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        // From here no change is missed.
        changed.as_mut().enable();
        let read = {
            let mut state = shared.state();
            if state.is_unread() {
                return None;
            }
            state.take_read()
        };
        if read > 0 {
            receiver.has_read([read, 0]).await;
        }
        let incoming = tokio::select! {
            incoming = receiver.next() => incoming,
            () = changed => continue,
        };
        match incoming {
            Ok(Incoming::Output { bytes, eof, .. }) => {
                let mut state = shared.state();
                state.incoming.extend(bytes);
                state.has_ended |= eof;
                state.wake_reader();
            }
            Ok(Incoming::Message(SupervisorMessage::Done)) => return Some(Ending::Closed),
            Ok(Incoming::Message(SupervisorMessage::Failed(failure))) => {
                return Some(Ending::Failed(cofferdam_runtime::remote_failure(&failure)));
            }
            Ok(Incoming::Message(SupervisorMessage::Exited { .. })) => {
                return Some(Ending::SandboxEnded);
            }
            Ok(Incoming::Message(_)) => {}
            Err(error) => return Some(Ending::Failed(error)),
        }
    }
}

/// Sends what was written, and the end or a reset.
pub(super) async fn send(mut outgoing: Outgoing, shared: Arc<Shared>) {
    tokio::select! {
        // A reset waits for no room.
        () = shared.to_reset.notified() => {}
        () = deliver(&mut outgoing, &shared) => {}
    }
    let sending = shared.state().sending;
    if sending == Sending::Broken {
        // The server must not take what it got for all of it. Where this fails, the supervisor is
        // gone, and so is the server.
        let _ = outgoing.message(ClientMessage::Reset).await;
    }
    shared.state().has_sent_all = true;
    shared.changed.notify_waiters();
}

/// Sends what was written, and the end, until the stream has ended or was dropped, or until something
/// cannot be sent.
async fn deliver(outgoing: &mut Outgoing, shared: &Shared) {
    loop {
        let (bytes, sending) = shared.state().take_outgoing();
        let is_ending = sending == Sending::Ending;
        let mut sent = outgoing.input(&bytes).await;
        // Nothing is written behind a shutdown, so those were the last bytes.
        if sent.is_ok() && is_ending {
            sent = outgoing.end_input().await;
        }
        if sent.is_err() {
            shared.state().has_broken();
            return;
        }
        if shared.state().has_sent(is_ending) {
            return;
        }
        if bytes.is_empty() {
            shared.to_send.notified().await;
        }
    }
}
