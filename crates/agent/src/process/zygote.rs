//! The workload's first process, made before it is known what it will run.
//!
//! Its namespaces, its cgroup and its `/proc` are then part of a template, and a start in a
//! restored machine is little more than `execve`. Like the children of [`super::clone`] it has the
//! agent's memory, and its rules are theirs: it runs only while the agent waits for it, which is
//! once when it is made and once when it gets its [`Plan`]. In between it sleeps. No process of
//! the user runs until then, so nobody can wake it.
//!
//! Source: futex(2), set_tid_address(2), kernel/fork.c `mm_release`.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU32,
        Ordering::{Acquire, Release},
    },
};

use cofferdam_proto::FailureKind;
use rustix::{
    io::Errno,
    thread::futex::{self, Flags},
};

use super::{
    ChildStack,
    child::{self, ChildPlacement, Plan, Report},
};
use crate::{
    failure::{OrFail, Result, failure},
    process::{reap, signal},
};

const SLEEPING: u32 = 1;
const FAILED: u32 = 2;
const WOKEN: u32 = 3;

/// What agent and zygote say to each other. Never freed, as the kernel stores to it last of all.
#[derive(Debug)]
struct Shared {
    placement: AtomicPtr<ChildPlacement<'static>>,
    /// 1 as long as the zygote has the agent's memory.
    present: AtomicU32,
    state: AtomicU32,
    plan: AtomicPtr<Plan<'static>>,
    report: Report,
}

/// A process that waits for its plan.
#[derive(Debug)]
pub(super) struct Zygote {
    shared: &'static Shared,
    pidfd: OwnedFd,
}

impl Zygote {
    /// Makes the first process of a new PID namespace on `ground`.
    pub(super) fn new(placement: &ChildPlacement<'_>, cgroup: BorrowedFd<'_>) -> Result<Self> {
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            placement: AtomicPtr::new(ptr::from_ref(placement).cast_mut().cast()),
            present: AtomicU32::new(1),
            state: AtomicU32::new(0),
            plan: AtomicPtr::new(ptr::null_mut()),
            report: Report::default(),
        }));
        // Its own, as others are born before it wakes; mapped once in the life of a template.
        let mut stack = ChildStack::new()?;
        // SAFETY: `run` keeps the rules: it never returns, allocates nothing, and stores to nothing
        // but the atomics of `shared` and of its plan. The agent only waits while it runs, here and
        // in `start`; nobody else uses the stack.
        let pidfd = unsafe { stack.spawn_beside(run, shared, cgroup, &shared.present) }
            .or_fail(FailureKind::Internal, || "Could not make a process ahead")?;
        while shared.state.load(Acquire) == 0 && shared.present.load(Acquire) != 0 {
            wait(&shared.state, 0);
        }
        if shared.state.load(Acquire) != SLEEPING {
            reap(&pidfd);
            let why = shared.report.failure();
            let message = format!("Could not set up a process ahead: {why:?}");
            return Err(failure(FailureKind::Internal, message));
        }
        Ok(Self { shared, pidfd })
    }

    /// Has it carry out `plan`, and returns its pidfd once it runs its program or has failed;
    /// `None` when it was not alive any more.
    pub(super) fn start(self, plan: &Plan<'_>) -> Option<OwnedFd> {
        let plan = ptr::from_ref(plan).cast_mut().cast::<Plan<'static>>();
        self.shared.plan.store(plan, Release);
        self.shared.state.store(WOKEN, Release);
        // Fails only for an address that is none.
        let _ = futex::wake(&self.shared.state, Flags::empty(), 1);
        while self.shared.present.load(Acquire) != 0 {
            wait(&self.shared.present, 1);
        }
        // SAFETY: `plan` came from a reference that this function still has.
        let taken = unsafe { (*plan).report.pid() } != 0;
        if taken {
            return Some(self.pidfd);
        }
        reap(&self.pidfd);
        None
    }

    /// Ends it.
    pub(super) fn discard(self) {
        const SIGKILL: u8 = 9;
        signal(&self.pidfd, SIGKILL);
        reap(&self.pidfd);
    }
}

/// The zygote's first function.
///
/// # Safety
/// `shared` is never freed; its ground is valid until this process sleeps, and its plan from when
/// it is woken until `present` is 0.
unsafe extern "C" fn run(shared: *const Shared) -> ! {
    // SAFETY: never freed, by this function's contract.
    let shared = unsafe { &*shared };
    // SAFETY: `new` waits, with the reference that it stored, until this process sleeps or ends.
    let settled = child::settle(unsafe { &*shared.placement.load(Acquire) });
    let outcome = match settled {
        Ok(()) => SLEEPING,
        Err(failed) => {
            shared.report.fail(failed);
            FAILED
        }
    };
    shared.state.store(outcome, Release);
    let _ = futex::wake(&shared.state, Flags::empty(), 1);
    if outcome == FAILED {
        child::exit();
    }
    while shared.state.load(Acquire) != WOKEN {
        wait(&shared.state, SLEEPING);
    }
    // SAFETY: the agent stored a reference and waits until this process has left its memory.
    let plan = unsafe { &*shared.plan.load(Acquire) };
    // SAFETY: the agent's plans hold valid pointers.
    unsafe { child::run_settled(settled, plan) }
}

/// Sleeps while `word` is `value`; may wake early. Without the C library's `errno`, which agent
/// and zygote share.
fn wait(word: &AtomicU32, value: u32) {
    // Not private: the kernel wakes those who wait for an end as it would other processes.
    let _: std::result::Result<(), Errno> = futex::wait(word, Flags::empty(), value, None);
}
