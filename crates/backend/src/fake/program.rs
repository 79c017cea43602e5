//! Other programs for the fake's guests than the one that counts.

use std::{fmt, os::unix::net::UnixStream, sync::Arc};

use super::guest::{Memory, Vcpu};

/// A program that runs in the fake's guests, such as an agent that a test controls.
pub trait GuestProgram: Send + Sync + fmt::Debug {
    /// Serves the agent's port. The machine ends with exit code 0 when this returns. It must return
    /// when the port is closed, which is how a machine is killed.
    fn run(&self, port: UnixStream, guest: &GuestState);
}

/// The processor and the memory of one of the fake's guests, as far as a program uses them.
#[derive(Clone, Debug)]
pub struct GuestState {
    pub(super) memory: Arc<Memory>,
    pub(super) vcpu: Arc<Vcpu>,
}

impl GuestState {
    /// Runs `step` with the word that is the program's memory. A paused machine waits before it; a
    /// restored one finds the word that was captured. The word is 0 at a boot and only then.
    ///
    /// Returns `None` when the machine has ended.
    pub fn step<T>(&self, step: impl FnOnce(&mut u64) -> T) -> Option<T> {
        self.vcpu.step(|| self.memory.with_counter(step))
    }
}
