//! Holding a migration just before its end.
//!
//! QEMU sends every page of guest memory once and then those that have changed since, and stops the
//! machine by itself when little is left. It cannot as long as the last pages are not read: so
//! memory is copied ahead while the guest runs, and its owner says when the end comes.

use std::{io, sync::mpsc};

use tokio::sync::oneshot;

use crate::stream::PageSink;

/// Pages that are left when a migration is held. In a stream the smallest page takes 9 bytes (QEMU
/// `migration/ram.c`, `save_zero_page`), so that these take more than what QEMU may have sent ahead:
/// its buffer of 32 KiB, the pipe, and what a reader has taken from that at once.
const HELD_PAGES: u64 = 8192;

/// Bytes of the pipe in which a held migration comes, and of its reader's buffer.
pub(crate) const PIPE_BYTES: usize = 16 << 10;

/// Where a migration is held.
#[derive(Debug)]
pub(crate) struct StreamHold {
    reached: oneshot::Sender<()>,
    open: mpsc::Receiver<()>,
}

/// What opens it. Dropped, it makes the migration fail.
#[derive(Debug)]
pub(crate) struct HoldRelease {
    reached: oneshot::Receiver<()>,
    open: mpsc::Sender<()>,
}

/// A gate and its key.
pub(crate) fn hold() -> (HoldRelease, StreamHold) {
    let (tell_reached, reached) = oneshot::channel();
    let (open, opened) = mpsc::channel();
    let hold = StreamHold {
        reached: tell_reached,
        open: opened,
    };
    (HoldRelease { reached, open }, hold)
}

impl HoldRelease {
    /// Waits until the migration is held; `false` if it ended before.
    pub(crate) async fn reached(&mut self) -> bool {
        (&mut self.reached).await.is_ok()
    }

    /// Lets it come to its end.
    pub(crate) fn open(self) {
        // Who is gone has failed, and that is told elsewhere.
        let _ = self.open.send(());
    }
}

/// A sink that is held at a gate, if there is one.
#[derive(Debug)]
pub(super) struct HeldSink<S> {
    inner: S,
    hold: Option<StreamHold>,
    pages_before: u64,
}

impl<S: PageSink> HeldSink<S> {
    pub(super) fn new(inner: S, hold: Option<StreamHold>, memory_bytes: u64) -> Self {
        Self {
            inner,
            hold,
            pages_before: (memory_bytes / 4096).saturating_sub(HELD_PAGES),
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    /// # Blocking
    /// At the gate.
    fn pass(&mut self) -> io::Result<()> {
        if self.pages_before > 0 {
            self.pages_before -= 1;
            return Ok(());
        }
        let Some(hold) = self.hold.take() else {
            return Ok(());
        };
        // Nobody may wait for it any more; then nobody opens it either.
        let _ = hold.reached.send(());
        hold.open
            .recv()
            .map_err(|_| io::Error::other("the capture was given up"))
    }
}

impl<S: PageSink> PageSink for HeldSink<S> {
    fn put(&mut self, offset: u64, page: &[u8; 4096]) -> io::Result<()> {
        self.pass()?;
        self.inner.put(offset, page)
    }

    fn clear(&mut self, offset: u64) -> io::Result<()> {
        self.pass()?;
        self.inner.clear(offset)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[derive(Default)]
    struct Count(u64);

    impl PageSink for Count {
        fn put(&mut self, _: u64, _: &[u8; 4096]) -> io::Result<()> {
            self.0 += 1;
            Ok(())
        }

        fn clear(&mut self, offset: u64) -> io::Result<()> {
            self.put(offset, &[0; 4096])
        }
    }

    const PAGES: u64 = HELD_PAGES + 2;

    fn send(hold: StreamHold) -> io::Result<u64> {
        let mut held = HeldSink::new(Count::default(), Some(hold), PAGES * 4096);
        (0..PAGES).try_for_each(|page| held.clear(page * 4096))?;
        Ok(held.into_inner().0)
    }

    #[tokio::test]
    async fn pages_are_held_until_the_gate_is_opened() {
        let (mut key, hold) = hold();
        let sender = thread::spawn(|| send(hold));
        assert!(key.reached().await);
        assert!(!sender.is_finished());
        key.open();
        assert_eq!(sender.join().unwrap().unwrap(), PAGES);
    }

    #[tokio::test]
    async fn a_key_that_is_lost_ends_what_is_held_and_a_gate_that_is_lost_is_never_reached() {
        let (mut key, first) = hold();
        let sender = thread::spawn(|| send(first));
        assert!(key.reached().await);
        drop(key);
        assert!(sender.join().unwrap().is_err());
        let (mut key, second) = hold();
        drop(second);
        assert!(!key.reached().await);
    }

    #[test]
    fn what_is_held_is_more_than_can_be_sent_ahead() {
        const QEMU_BUFFER: u64 = 32 << 10;
        assert!(HELD_PAGES * 9 > QEMU_BUFFER + 2 * PIPE_BYTES as u64);
    }
}
