//! Our standard input, sent to a session until it ends or the detach keys are typed.

use cofferdam::SessionWriter;
use tokio::{io::AsyncReadExt, sync::oneshot};

use crate::detach_keys::DetachKeys;

/// Events of our input.
pub(super) struct InputEvents {
    /// The detach keys were typed.
    pub(super) detach: oneshot::Sender<()>,
    /// It has ended, and there was some.
    pub(super) end: oneshot::Sender<()>,
}

/// Sends our input and its end. Reads on a blocking thread: a terminal or file cannot be polled.
pub(super) async fn forward_input(
    mut input: SessionWriter,
    mut keys: Option<DetachKeys>,
    ends: InputEvents,
) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 << 10];
    let mut had_some = false;
    loop {
        let length = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // The session may have ended before its input.
                let _ = input.close().await;
                if had_some {
                    // The receiver is gone if the session is not left at the end of the input.
                    let _ = ends.end.send(());
                }
                return;
            }
            Ok(length) => length,
        };
        had_some = true;
        let written = match &mut keys {
            None => input.write(&buffer[..length]).await,
            Some(keys) => {
                let (bytes, leave) = keys.filter(&buffer[..length]);
                let written = input.write(&bytes).await;
                if leave {
                    // The session may end in this moment; then nobody listens.
                    let _ = ends.detach.send(());
                    return;
                }
                written
            }
        };
        if written.is_err() {
            return;
        }
    }
}
