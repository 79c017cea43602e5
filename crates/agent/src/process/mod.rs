//! Processes of the workload: from a [`ProcessSpec`] to a pidfd and the agent's ends of its streams.
//!
//! The workload is PID 1 of a new PID namespace; later ones join it there, with the root's mount
//! and cgroup namespaces. A warm-up has a PID and a mount namespace of its own, which end with it.
//! The UTS and IPC namespaces are the agent's own: it uses neither, and a later `Adopt` sets the
//! host name for all.

mod child;
mod clone;
mod diagnosis;
mod env;
pub(crate) mod hook;
pub(crate) mod init;
mod posix_session;
mod process_warmer;
mod spawner;
mod stdio;
mod trimmer;
mod user;
mod zygote;

use std::{
    ffi::{CString, c_char},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use cofferdam_proto::{Failure, FailureKind, ProcessSpec};
use cofferdam_types::{ExitStatus, Rlimit};
use rustix::{
    io::Errno,
    process::{PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid},
    thread::{Gid, ThreadNameSpaceType, Uid, move_into_thread_name_spaces},
};

use self::{
    child::{Plan, Report, Rights, Step},
    clone::ChildStack,
};
pub(crate) use self::{
    posix_session::{number, signal_session},
    spawner::Spawner,
    stdio::{Stdio, resize},
    trimmer::Trimmer,
};
use crate::{
    failure::{OrFail, Result, failure},
    log,
    mounts::{Root, Stage, resolve},
};

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Number in the workload's PID namespace.
    pub(crate) pid: u32,
    /// Readable once it has ended.
    pub(crate) pidfd: OwnedFd,
}

/// Where a process belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the workload, whose PID namespace it makes.
    Workload,
    /// Beside the workload.
    Beside,
    /// Alone, before there is a workload.
    WarmUp,
    /// Alone, before there is a workload, and unable to write to any file system.
    Rehearsal,
}

impl Place {
    /// Whether it is the first process of a PID namespace, for which no `/proc` is mounted yet.
    fn has_own_pids(self) -> bool {
        self != Self::Beside
    }

    /// Whether it gets a mount namespace of its own.
    fn has_own_mounts(self) -> bool {
        matches!(self, Self::WarmUp | Self::Rehearsal)
    }
}

/// The cgroup that a process starts in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Home<'a> {
    /// The sandbox's, whichever has room.
    Sandbox {
        /// The workload's first process, for one beside it.
        workload: Option<&'a OwnedFd>,
    },
    /// This one.
    Given(BorrowedFd<'a>),
}

/// What a process is started in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) root: &'a Root,
    pub(crate) hostname: &'a str,
    /// Limits that `spec` may override.
    pub(crate) rlimits: &'a [Rlimit],
    pub(crate) place: Place,
    pub(crate) home: Home<'a>,
}

/// Starts `spec`; it runs its program when this returns.
pub(crate) fn spawn(
    context: &Context<'_>,
    spec: &ProcessSpec,
    spawner: &mut Spawner,
) -> Result<(Process, Stdio)> {
    let (stage, root) = (context.stage, context.root);
    let more_groups = &spec.privileges.groups;
    let user = spawner.accounts(root)?.resolve(&spec.user, more_groups)?;
    let workdir = workdir(root, &spec.workdir, context.place)?;
    let Some(program) = spec.argv.first().filter(|program| !program.is_empty()) else {
        return Err(failure(
            FailureKind::ProgramNotFound,
            "No program was given",
        ));
    };
    let env = env::complete(spec, &user, context.hostname);
    let candidates = env::candidates(program, &env);
    let (ours, theirs) = match spec.terminal {
        Some(size) => stdio::terminal(stage, size, &user)?,
        None => stdio::pipes(spec.stdin, &user, &mut spawner.pipes)?,
    };
    let [stdin, stdout, stderr] = &theirs.0;
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let rights = (!user.is_plain_root()).then(|| Rights {
        uid: Uid::from_raw(user.uid),
        gid: Gid::from_raw(user.gid),
        groups: &groups,
    });
    let directory = match workdir {
        "/" => None,
        path => Some(env::c_string(path)?),
    };
    let strings = |texts: &[String]| {
        texts
            .iter()
            .map(|text| env::c_string(text))
            .collect::<Result<Vec<_>>>()
    };
    let init = match spec.init && context.place == Place::Workload {
        true => {
            diagnosis::expect_program(root, program, &candidates, workdir)?;
            Some(init::open()?)
        }
        false => None,
    };
    let mut argv = spec.argv.clone();
    if init.is_some() {
        argv.insert(0, init::NAME.to_owned());
    }
    let (programs, arguments, environment) =
        (strings(&candidates)?, strings(&argv)?, strings(&env)?);
    let plan = Plan {
        placement: spawner::placement(stage, context.place),
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        terminal: spec.terminal.is_some(),
        rlimits: &rlimits(context.rlimits, &spec.rlimits),
        workdir: directory.as_deref(),
        rights,
        capabilities: spec.privileges.capabilities,
        no_new_privileges: spec.privileges.no_new_privileges,
        init: init.as_ref().map(AsFd::as_fd),
        programs: &pointers(&programs, false),
        arguments: &pointers(&arguments, true),
        environment: &pointers(&environment, true),
        report: Report::default(),
    };
    let pidfd = spawner.spawn(&plan, &stage.groups, &context.home)?;
    match plan.report.failure() {
        None => Ok((
            Process {
                pid: plan.report.pid(),
                pidfd,
            },
            ours,
        )),
        Some((step, errno)) => {
            reap(&pidfd);
            Err(match step {
                Step::Program => diagnosis::of_program(root, program, &candidates, workdir, errno),
                step => at_step(step, errno, workdir),
            })
        }
    }
}

/// Makes later processes members of the workload's PID namespace. The agent itself stays where
/// it is.
pub(crate) fn join(workload: &OwnedFd) -> Result<()> {
    match move_into_thread_name_spaces(workload.as_fd(), ThreadNameSpaceType::PROCESS_ID) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(failure(FailureKind::OutOfOrder, "The workload has ended")),
        Err(error) => Err(error).or_fail(
            FailureKind::Internal,
            || "Could not join the workload's PID namespace",
        ),
    }
}

/// Ends [`join`], for a process that the workload is not to see.
pub(crate) fn leave() -> Result<()> {
    let failed = || "Could not leave the workload's PID namespace";
    let itself =
        pidfd_open(getpid(), PidfdFlags::empty()).or_fail(FailureKind::Internal, failed)?;
    move_into_thread_name_spaces(itself.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .or_fail(FailureKind::Internal, failed)
}

fn at_step(step: Step, errno: Errno, workdir: &str) -> Failure {
    let (kind, what) = match step {
        Step::Workdir => (
            FailureKind::BadWorkdir,
            format!("Could not enter the working directory `{workdir}`"),
        ),
        Step::Limits => (
            FailureKind::Limits,
            "Could not set a resource limit".to_owned(),
        ),
        Step::User => (
            FailureKind::Internal,
            "Could not take on the user".to_owned(),
        ),
        Step::Privileges => (
            FailureKind::Internal,
            "Could not limit what the process may do".to_owned(),
        ),
        Step::Init => (FailureKind::Internal, "Could not run the init".to_owned()),
        Step::Proc => (FailureKind::Mount, "Could not mount `/proc`".to_owned()),
        Step::Terminal => (
            FailureKind::Internal,
            "Could not take the terminal".to_owned(),
        ),
        _ => (
            FailureKind::Internal,
            "Could not set up a process".to_owned(),
        ),
    };
    failure(kind, format!("{what}: {errno}"))
}

/// Pointers to `strings`, with a null at the end if `ended`. Valid as long as `strings` is.
fn pointers(strings: &[CString], ended: bool) -> Vec<*const c_char> {
    let end = ended.then_some(ptr::null());
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain(end)
        .collect()
}

/// The limits of a process beside those that each has: `general`, overridden by `own`.
fn rlimits(general: &[Rlimit], own: &[Rlimit]) -> Vec<(u32, libc::rlimit64)> {
    let mut limits: Vec<(u32, libc::rlimit64)> = Vec::new();
    for limit in general.iter().chain(own) {
        let resource = u32::from(limit.resource);
        let value = libc::rlimit64 {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        limits.retain(|(known, _)| *known != resource);
        limits.push((resource, value));
    }
    limits
}

/// The working directory. As in Docker, the workload's is made when absent, and so is that of what
/// runs before it; that of a process beside it is not: a misspelt one is an error. A rehearsal
/// makes nothing.
fn workdir<'a>(root: &Root, path: &'a str, place: Place) -> Result<&'a str> {
    match path {
        "" | "/" => Ok("/"),
        path if path.starts_with('/') && !matches!(place, Place::Beside | Place::Rehearsal) => {
            resolve::ensure(&root.directory, path, resolve::Kind::Directory)
                .map(|_| path)
                .or_fail(FailureKind::BadWorkdir, || {
                    format!("Could not make the working directory `{path}`")
                })
        }
        path if path.starts_with('/') => Ok(path),
        path => {
            let message = format!("Working directory `{path}` is not an absolute path");
            Err(failure(FailureKind::BadWorkdir, message))
        }
    }
}

/// Takes the status of a process that has ended.
pub(crate) fn reap(pidfd: &OwnedFd) -> ExitStatus {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let number = |status: Option<i32>| {
                    status.and_then(|status| u8::try_from(status & 0xff).ok())
                };
                return match (
                    number(status.exit_status()),
                    number(status.terminating_signal()),
                ) {
                    (Some(code), _) => ExitStatus::Code(code),
                    (None, signal) => ExitStatus::Signal(signal.unwrap_or(9)),
                };
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => {
                // Cannot be: the agent is the parent and reaps each child once.
                log::error(&format!("Could not take an exit status: {error}"));
                return ExitStatus::Signal(9);
            }
        }
    }
}

/// Sends a signal; one to a process that has ended is lost, as it would be a moment later.
pub(crate) fn signal(pidfd: &OwnedFd, signal: u8) {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the kernel makes its own; the pidfd is open. Real-time signals have
    // no name in rustix, hence the bare call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            i32::from(signal),
            info,
            0,
        )
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ESRCH) {
            log::error(&format!("Could not send signal {signal}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_overrides_the_sandbox_which_overrides_the_default() {
        let limit = |resource, soft| Rlimit {
            resource,
            soft,
            hard: soft,
        };
        let own = [limit(4, 30)];
        let limits = rlimits(&[limit(7, 10), limit(4, 20)], &own);
        let plain: Vec<_> = limits
            .iter()
            .map(|(resource, value)| (*resource, value.rlim_cur))
            .collect();
        assert_eq!(plain, [(7, 10), (4, 30)]);
        assert!(rlimits(&[], &[]).is_empty());
    }
}
