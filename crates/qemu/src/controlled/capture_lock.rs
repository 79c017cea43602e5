//! One capture of a machine at a time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use cofferdam_backend::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The captures of one machine.
#[derive(Debug, Default)]
pub(crate) struct CaptureLock {
    /// Whether someone holds a capture.
    held: Arc<AtomicBool>,
    /// Held as long as anything of a capture is in QEMU, which may be longer.
    set_up: Arc<Mutex<()>>,
    next: AtomicU64,
}

impl CaptureLock {
    /// Refused while there is a capture; waits for one that was dropped to be taken down.
    pub(crate) async fn take_turn(&self) -> Result<CaptureGuard> {
        let held = HeldFlag::new(&self.held)?;
        let set_up = Arc::clone(&self.set_up).lock_owned().await;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(CaptureGuard {
            held,
            _set_up: set_up,
            number,
        })
    }
}

/// The right to capture a machine.
#[derive(Debug)]
pub(crate) struct CaptureGuard {
    held: HeldFlag,
    _set_up: OwnedMutexGuard<()>,
    number: u64,
}

impl CaptureGuard {
    /// Tells captures of one machine apart.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Lets the next one ask for its turn, which comes when this is dropped.
    pub(crate) fn release(&self) {
        self.held.release();
    }
}

#[derive(Debug)]
struct HeldFlag {
    flag: Arc<AtomicBool>,
    ours: AtomicBool,
}

impl HeldFlag {
    fn new(flag: &Arc<AtomicBool>) -> Result<Self> {
        if flag.swap(true, Ordering::AcqRel) {
            let what = "The machine is being captured already";
            return Err(Error::new(ErrorKind::WrongState, what));
        }
        Ok(Self {
            flag: Arc::clone(flag),
            ours: AtomicBool::new(true),
        })
    }

    fn release(&self) {
        if self.ours.swap(false, Ordering::AcqRel) {
            self.flag.store(false, Ordering::Release);
        }
    }
}

impl Drop for HeldFlag {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_turn_is_refused_and_a_later_one_waits_for_the_first_to_be_over() {
        let capture_lock = CaptureLock::default();
        let first = capture_lock.take_turn().await.unwrap();
        let error = capture_lock.take_turn().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState);
        first.release();
        let mut second = Box::pin(capture_lock.take_turn());
        let waits = tokio::select! {
            biased;
            _ = &mut second => false,
            () = std::future::ready(()) => true,
        };
        assert!(waits);
        // It is held by who waits for it.
        assert!(capture_lock.take_turn().await.is_err());
        drop(first);
        assert_eq!(second.await.unwrap().number(), 1);
        capture_lock.take_turn().await.unwrap();
    }
}
