//! The user's terminal: raw mode that is always undone, its size.

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    sync::{Mutex, Once, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The mode to go back to. Held for the length of one assignment.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode; dropping it restores the mode, and so does a panic, which in a
/// release build ends the process without dropping anything.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes standard input raw, so that every key goes to the guest.
    ///
    /// # Errors
    /// When it is no terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &before);
    }
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Rows and columns of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout().as_fd()).or_else(|_| tcgetwinsize(io::stdin().as_fd()));
    size.ok()
        .filter(|size| size.ws_row > 0)
        .map(|size| (size.ws_row, size.ws_col))
}
