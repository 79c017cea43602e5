//! Our signals while a session is joined: some are sent on to its process, others end only us.

use cofferdam::{SessionWriter, Signal};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

use super::Kind;
use crate::terminal;

/// Signals that are handed on to the process, as Docker's `--sig-proxy` does: HUP, INT, QUIT,
/// USR1, USR2, ALRM, TERM, CONT. Source: signal(7), the x86 column.
const PROXIED: [u8; 8] = [1, 2, 3, 10, 12, 14, 15, 18];

/// Signals with which people and shells end a program: HUP, INT, QUIT, TERM.
const ENDING: [u8; 4] = [1, 2, 3, 15];

/// SIGHUP.
pub(super) const HUP: u8 = 1;

/// Hands signals on. With a raw terminal its keys are bytes, and only others' signals come here.
/// What our caller made us ignore, as `nohup` does, stays ignored.
pub(super) fn forward_signals(
    input: &SessionWriter,
    mut hang_up: Option<oneshot::Sender<()>>,
    kind: Kind,
) -> Vec<JoinHandle<()>> {
    let ignored = ignored_signals();
    PROXIED
        .into_iter()
        .filter(|number| ignored & (1 << (number - 1)) == 0)
        .filter_map(|number| {
            let mut stream = signal(SignalKind::from_raw(i32::from(number))).ok()?;
            let input = input.clone();
            let mut hang_up = hang_up.take_if(|_| number == HUP);
            let number = Signal::try_from(number).ok()?;
            Some(tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let leaves = hang_up.is_some();
                    let sent = if leaves && kind != Kind::Command {
                        // A workload goes on without our terminal, as in Docker.
                        Ok(())
                    } else {
                        input.signal(number).await
                    };
                    if let Some(hang_up) = hang_up.take() {
                        // The session may end in this moment; then nobody listens.
                        let _ = hang_up.send(());
                    }
                    if sent.is_err() {
                        return;
                    }
                }
            }))
        })
        .collect()
}

/// The signals that this process ignores, signal n as bit n - 1.
/// Source: proc_pid_status(5), SigIgn.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Tells the size now and whenever it changes.
pub(super) fn forward_size(input: SessionWriter) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Some((rows, columns)) = terminal::size()
                && input.resize(rows, columns).await.is_err()
            {
                return;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    })
}

/// Waits for a signal that ends programs, and returns its number.
pub(super) async fn ending_signal() -> u8 {
    let ignored = ignored_signals();
    let wait = |number: u8| async move {
        let kind = SignalKind::from_raw(i32::from(number));
        match signal(kind) {
            Ok(mut stream) if ignored & (1 << (number - 1)) == 0 => {
                stream.recv().await;
                number
            }
            _ => std::future::pending().await,
        }
    };
    let [hang_up, interrupt, quit, terminate] = ENDING.map(wait);
    tokio::select! {
        number = hang_up => number,
        number = interrupt => number,
        number = quit => number,
        number = terminate => number,
    }
}

/// Waits for a signal that ends programs.
pub(super) async fn told_to_end() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    let [Ok(mut interrupt), Ok(mut terminate)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
