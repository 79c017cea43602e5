//! The two tasks of a byte stream.

use std::{io, sync::Arc};

use cofferdam_runtime::{
    ClientMessage, Error, ErrorKind, Incoming, Outgoing, Receiver, SupervisorMessage,
};

use super::{Shared, Wants};
use crate::{Sandbox, session::next_of};

/// Puts what comes into the stream until its end.
pub(super) async fn receive(mut receiver: Receiver, sandbox: Sandbox, shared: Arc<Shared>) {
    let end = loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        // From here no change is missed.
        changed.as_mut().enable();
        let read = {
            let mut state = shared.state();
            if state.is_dropped {
                return;
            }
            std::mem::take(&mut state.read)
        };
        if read > 0 {
            receiver.has_read([read, 0]).await;
        }
        let incoming = tokio::select! {
            incoming = next_of(&mut receiver, &sandbox) => incoming,
            () = changed => continue,
        };
        let aborted = |error: &Error| (io::ErrorKind::ConnectionAborted, error.chain());
        match incoming {
            Ok(Incoming::Output { bytes, eof, .. }) => {
                let mut state = shared.state();
                state.incoming.extend(bytes);
                state.has_ended |= eof;
                state.wake_reader();
            }
            Ok(Incoming::Message(SupervisorMessage::Done)) => break Ok(()),
            Ok(Incoming::Message(SupervisorMessage::Failed(failure))) => {
                let error = cofferdam_runtime::remote_failure(&failure);
                break Err(match error.kind() {
                    ErrorKind::ConnectionReset => (io::ErrorKind::ConnectionReset, error.chain()),
                    _ => aborted(&error),
                });
            }
            Ok(Incoming::Message(SupervisorMessage::Exited { .. })) => {
                let what = format!("Sandbox `{}` has ended", sandbox.name());
                break Err((io::ErrorKind::ConnectionAborted, what));
            }
            Ok(Incoming::Message(_)) => {}
            Err(error) => break Err(aborted(&error)),
        }
    };
    let mut state = shared.state();
    state.end = Some(end);
    state.wake_reader();
    state.wake_writer();
    drop(state);
    shared.to_send.notify_one();
}

/// Sends what was written, and the end.
pub(super) async fn send(mut outgoing: Outgoing, shared: Arc<Shared>) {
    loop {
        let (bytes, wants) = shared.state().take_outgoing();
        let sent = match wants {
            Wants::Open => outgoing.input(&bytes).await,
            // Nothing is written behind a shutdown, so these are the last bytes.
            Wants::Shutdown => match outgoing.input(&bytes).await {
                Ok(()) => outgoing.end_input().await,
                failed => failed,
            },
            Wants::Reset => outgoing.message(ClientMessage::Reset).await,
        };
        if shared.state().has_sent(wants, sent.is_ok()) {
            return;
        }
        if bytes.is_empty() {
            shared.to_send.notified().await;
        }
    }
}
