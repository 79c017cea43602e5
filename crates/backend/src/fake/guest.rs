//! The fake's guest: a thread that answers with a counter, and the client that asks it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::contract::Guest;

/// Guest memory, as far as anyone looks at it.
#[derive(Debug)]
pub(super) struct Memory(AtomicU64);

impl Memory {
    pub(super) const fn new(counter: u64) -> Self {
        Self(AtomicU64::new(counter))
    }

    pub(super) fn counter(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Whether the guest's processor runs.
#[derive(Debug, Default)]
pub(super) struct Vcpu {
    paused: Mutex<bool>,
    changed: Condvar,
}

impl Vcpu {
    pub(super) fn set_paused(&self, paused: bool) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
        self.changed.notify_all();
    }

    pub(super) fn is_paused(&self) -> bool {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_running(&self) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        while *paused {
            paused = self
                .changed
                .wait(paused)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts until the channel is closed.
pub(super) fn serve(mut channel: UnixStream, memory: &Arc<Memory>, vcpu: &Arc<Vcpu>, mute: bool) {
    let mut byte = [0];
    while channel.read_exact(&mut byte).is_ok() {
        vcpu.until_running();
        let count = memory.0.fetch_add(1, Ordering::SeqCst) + 1;
        if !mute && channel.write_all(&count.to_le_bytes()).is_err() {
            return;
        }
    }
}

/// Asks the fake's guest.
#[derive(Debug)]
pub struct FakeGuest(UnixStream);

/// A thread answers in microseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Long enough for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(50);

impl FakeGuest {
    /// Takes the agent channel of a fake machine.
    ///
    /// # Errors
    /// The channel's.
    pub fn new(channel: UnixStream) -> io::Result<Self> {
        channel.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self(channel))
    }

    fn answer(&mut self) -> io::Result<u64> {
        let mut count = [0; 8];
        self.0.read_exact(&mut count)?;
        Ok(u64::from_le_bytes(count))
    }
}

impl Guest for FakeGuest {
    fn tick(&mut self) -> io::Result<u64> {
        self.0.write_all(&[0])?;
        self.answer()
    }

    fn counts_by_one(&self) -> bool {
        true
    }

    fn is_silent(&mut self) -> io::Result<bool> {
        self.0.write_all(&[0])?;
        self.0.set_read_timeout(Some(SILENCE))?;
        let answer = self.answer();
        self.0.set_read_timeout(Some(ANSWER_LIMIT))?;
        match answer {
            Ok(_) => Ok(false),
            // Its answer comes after the resume, ahead of the next one; both are larger than any
            // before, so it needs no throwing away.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
}
