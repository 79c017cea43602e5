//! Where processes come from: the stack that they are born on, and what was made ahead for them.
//!
//! What is made ahead is part of a template. All of it can be done without: a start that finds
//! nothing does the work itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_proto::FailureKind;
use rustix::io::Errno;

use super::{
    ChildStack, Home, Place,
    child::{self, ChildPlacement, Plan},
    process_warmer::{self, ProcessWarmer},
    stdio::SparePipes,
    user::Accounts,
    zygote::Zygote,
};
use crate::{
    cgroup::{self, Groups},
    failure::{OrFail, Result, failure},
    log,
    mounts::{Root, Stage},
};

/// How often a workload may move its first process to another cgroup while an exec looks for it.
const GROUP_TRIES: usize = 4;

/// Makes processes.
#[derive(Debug)]
pub(crate) struct Spawner {
    stack: ChildStack,
    zygote: Option<Zygote>,
    process_warmer: Option<ProcessWarmer>,
    /// Whether one has gone already: this processor has translated what it is for.
    has_warmed_up: bool,
    /// The image's users, as long as no process could change them.
    accounts: Option<Accounts>,
    pub(super) pipes: SparePipes,
}

impl Spawner {
    /// One with nothing made ahead.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            stack: ChildStack::new()?,
            zygote: None,
            process_warmer: None,
            has_warmed_up: false,
            accounts: None,
            pipes: SparePipes::default(),
        })
    }

    /// Makes ahead what a workload in `root` will need.
    ///
    /// # Errors
    /// When something could not be made. The workload starts without it.
    pub(crate) fn prepare(&mut self, stage: &Stage, root: &Root) -> Result<()> {
        // The start reports what is wrong with the users.
        self.accounts = Accounts::ahead(root).ok();
        self.pipes.fill().and_then(|()| {
            if self.zygote.is_none() {
                let placement = placement(stage, Place::Workload);
                self.zygote = Some(Zygote::new(&placement, stage.groups.workload.as_fd())?);
            }
            let wanted = !self.has_warmed_up && process_warmer::is_useful();
            if self.process_warmer.is_none() && wanted {
                let root = stage.mount_namespace.as_fd();
                self.process_warmer = Some(ProcessWarmer::new(&mut self.stack, root)?);
            }
            Ok(())
        })
    }

    /// Forgets what something that runs in `root` could make wrong.
    pub(crate) fn discard(&mut self, stage: &Stage) -> Result<()> {
        self.accounts = None;
        if let Some(process_warmer) = self.process_warmer.take() {
            process_warmer.discard();
        }
        if let Some(zygote) = self.zygote.take() {
            zygote.discard();
            stage.unmount_proc()?;
        }
        Ok(())
    }

    /// The users of `root`. Only the workload finds them as they were before.
    pub(super) fn accounts(&mut self, root: &Root) -> Result<Accounts> {
        self.accounts
            .take()
            .map_or_else(|| Accounts::read(root), Ok)
    }

    /// Sends before the workload what was made for that; returns its pidfd, for whoever reaps it.
    pub(crate) fn send_ahead(&mut self) -> Option<OwnedFd> {
        let process_warmer = self.process_warmer.take()?;
        self.has_warmed_up = true;
        Some(process_warmer.go())
    }

    /// Starts a process; it runs its program, or has failed, when this returns.
    pub(super) fn spawn(
        &mut self,
        plan: &Plan<'_>,
        groups: &Groups,
        home: &Home<'_>,
    ) -> Result<OwnedFd> {
        if plan.placement.place == Place::Workload
            && let Some(pidfd) = self.zygote.take().and_then(|zygote| zygote.start(plan))
        {
            return Ok(pidfd);
        }
        let spawned = match *home {
            Home::Sandbox { workload } => self.spawn_in_a_group(plan, groups, workload),
            Home::Given(cgroup) => self.spawn_in(plan, cgroup),
        };
        match spawned {
            Ok(pidfd) => Ok(pidfd),
            Err(Errno::AGAIN) => Err(failure(
                FailureKind::Limits,
                "The limit of processes is reached",
            )),
            // The kernel's answer when the namespace's first process has ended.
            Err(Errno::NOMEM) => Err(failure(FailureKind::OutOfOrder, "The workload has ended")),
            Err(error) => Err(error).or_fail(FailureKind::Internal, || "Could not make a process"),
        }
    }

    /// Starts a process in the first cgroup that takes it: the workload's; where that one is
    /// divided, that of the workload's first process, as runc does; where the default limit of
    /// processes is near, the reserve.
    fn spawn_in_a_group(
        &mut self,
        plan: &Plan<'_>,
        groups: &Groups,
        workload: Option<&OwnedFd>,
    ) -> std::result::Result<OwnedFd, Errno> {
        if let Some(reserve) = workload.and_then(|_| groups.reserve_if_crowded()) {
            return self.spawn_in(plan, reserve.as_fd());
        }
        let mut spawned = self.spawn_in(plan, groups.workload.as_fd());
        if is_divided(&spawned) && workload.is_none() {
            // A warm-up did it, and has ended.
            cgroup::undivide();
            spawned = self.spawn_in(plan, groups.workload.as_fd());
        }
        for _ in 0..GROUP_TRIES {
            let Some(workload) = workload.filter(|_| is_divided(&spawned)) else {
                break;
            };
            match cgroup::of_process(workload) {
                Ok(group) => spawned = self.spawn_in(plan, group.as_fd()),
                // It has just moved or ended; the next try tells.
                Err(failure) => log::error(&failure.message),
            }
        }
        if spawned.as_ref().is_err_and(|error| *error == Errno::AGAIN)
            && let Some(reserve) = groups.reserve().filter(|_| workload.is_some())
        {
            spawned = self.spawn_in(plan, reserve.as_fd());
        }
        spawned
    }

    fn spawn_in(
        &mut self,
        plan: &Plan<'_>,
        cgroup: BorrowedFd<'_>,
    ) -> std::result::Result<OwnedFd, Errno> {
        let own_pids = plan.placement.place.has_own_pids();
        // SAFETY: `child::run` keeps the rules of `spawn`: it never returns, allocates nothing and
        // stores only to the plan's atomics. The plan's pointers come from `CString`s that live in
        // the caller until the child has left this memory.
        unsafe { self.stack.spawn(child::run, plan, cgroup, own_pids) }
    }
}

/// Whether a cgroup took no process because it has handed its controllers down, or is gone.
/// Source: cgroup-v2.rst, "No Internal Process Constraint" and "Threads".
fn is_divided(spawned: &std::result::Result<OwnedFd, Errno>) -> bool {
    matches!(spawned, Err(Errno::BUSY | Errno::OPNOTSUPP | Errno::NODEV))
}

/// Where a process of the root lives.
pub(super) fn placement(stage: &Stage, place: Place) -> ChildPlacement<'_> {
    ChildPlacement {
        mount_namespace: stage.mount_namespace.as_fd(),
        cgroup_namespace: stage.cgroup_namespace.as_fd(),
        place,
    }
}
