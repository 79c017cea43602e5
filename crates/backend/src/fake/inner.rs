//! What all handles to one of the fake's machines share.

use std::{
    future::poll_fn,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    task::{Poll, Waker},
};

use cofferdam_types::SandboxId;

use super::{
    Bug,
    contents::Contents,
    guest::{Memory, Vcpu},
    snapshot::Shape,
};
use crate::{Error, ErrorKind, MachineExit, MemoryBacking, Result, unsupported};

/// What all handles to one machine share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: SandboxId,
    pub(super) pid: u32,
    pub(super) bug: Option<Bug>,
    /// Whether it has the least that a machine has.
    pub(super) plain: bool,
    pub(super) shape: Shape,
    pub(super) memory_mib: u32,
    pub(super) backing: MemoryBacking,
    pub(super) memory: Arc<Memory>,
    pub(super) vcpu: Arc<Vcpu>,
    /// Writable disks.
    pub(super) disks: Vec<PathBuf>,
    /// Memory as the machine began.
    pub(super) began_with: Vec<u64>,
    pub(super) looks: AtomicU64,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) exit: Option<MachineExit>,
    pub(super) waiting: Vec<Waker>,
    /// The guest's end; closing it ends the guest.
    pub(super) guest: Option<UnixStream>,
    pub(super) channel: Option<UnixStream>,
    /// The guest's end of the network interface.
    pub(super) guest_network: Option<UnixStream>,
    pub(super) network: Option<UnixStream>,
    /// The guest's end of the file channel.
    pub(super) guest_files: Option<UnixStream>,
    pub(super) files: Option<UnixStream>,
    pub(super) captures: bool,
    pub(super) first_moment: Option<Contents>,
}

impl Inner {
    pub(super) const fn id(&self) -> SandboxId {
        self.id
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn exit(&self) -> Option<MachineExit> {
        self.state().exit.clone()
    }

    pub(super) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn disks(&self) -> &[PathBuf] {
        &self.disks
    }

    pub(super) fn is_paused(&self) -> bool {
        self.vcpu.is_paused()
    }

    pub(super) fn resume(&self) {
        self.vcpu.set_paused(false);
    }

    /// What a restored machine's memory was.
    pub(super) fn origin(&self) -> Option<Vec<u64>> {
        let restored = self.began_with.first().is_some_and(|counter| *counter > 0);
        restored.then(|| self.began_with.clone())
    }

    /// Memory and disks as they are now.
    pub(super) fn contents(&self) -> Result<Contents> {
        Contents::of(&self.memory, &self.disks)
    }

    /// The moment of the first capture, which is this one if there was none.
    pub(super) fn first_moment(&self, moment: Contents) -> Contents {
        self.state().first_moment.get_or_insert(moment).clone()
    }

    /// Whether there was no capture under way; there is now.
    pub(super) fn begin_capture(&self) -> bool {
        let mut state = self.state();
        let free = !state.captures || self.has(Bug::CapturesTwice);
        state.captures = true;
        free
    }

    pub(super) fn end_capture(&self) {
        self.state().captures = false;
    }

    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Refuses what a plain machine has not.
    pub(super) fn expect(&self, what: &str) -> Result<()> {
        if self.plain {
            return Err(unsupported(
                what,
                "a machine that runs",
                "Use a backend that is not plain",
            ));
        }
        Ok(())
    }

    pub(super) fn end(&self, signal: i32) {
        let hidden = self.has(Bug::HidesKill);
        self.end_as(MachineExit {
            code: hidden.then_some(0),
            signal: (!hidden).then_some(signal),
        });
    }

    /// Its guest has shut it down.
    pub(super) fn exit_by_itself(&self) {
        self.end_as(MachineExit {
            code: Some(0),
            signal: None,
        });
    }

    fn end_as(&self, exit: MachineExit) {
        let mut state = self.state();
        if state.exit.is_some() {
            return;
        }
        state.exit = Some(exit);
        let guests = [
            state.guest.take(),
            state.guest_network.take(),
            state.guest_files.take(),
        ];
        for guest in guests {
            // The guest's thread may be waiting for either.
            let _ = guest.map(|guest| guest.shutdown(std::net::Shutdown::Both));
        }
        state.waiting.drain(..).for_each(Waker::wake);
        drop(state);
        self.vcpu.turn_off();
    }

    pub(super) async fn wait(&self) -> MachineExit {
        poll_fn(|context| {
            let mut state = self.state();
            match &state.exit {
                Some(exit) if !self.has(Bug::HangsInWait) => Poll::Ready(exit.clone()),
                _ => {
                    state.waiting.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub(super) fn alive(&self) -> Result<()> {
        match self.exit() {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Gone, "The machine has ended")),
        }
    }
}
