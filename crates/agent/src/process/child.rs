//! What a new process does before its program: alone on its stack, in the agent's memory.
//!
//! Rules of this file: no allocation, no lock, no panic, nothing but system calls. rustix makes
//! them directly, without the C library's `errno`; the program's environment is passed as it is.

use std::{
    ffi::{CStr, c_char},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed},
};

use cofferdam_types::CapabilitySet;
use rustix::{
    fs::Mode,
    io::{Errno, dup2},
    mount::{MountFlags, mount},
    process::{chdir, getpid, ioctl_tiocsctty, setsid, umask},
    thread::{
        Gid, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
    },
};

use super::Place;

/// The limit of open files where the spec has none: that of systemd, which Docker hands on too.
pub(super) const OPEN_FILES: (u32, libc::rlimit64) = (
    libc::RLIMIT_NOFILE,
    libc::rlimit64 {
        rlim_cur: 1024,
        rlim_max: 524_288,
    },
);

/// Where a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Step {
    Namespace = 1,
    Proc,
    Stdio,
    Terminal,
    Limits,
    Workdir,
    Privileges,
    User,
    Init,
    Program,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Namespace,
        Self::Proc,
        Self::Stdio,
        Self::Terminal,
        Self::Limits,
        Self::Workdir,
        Self::Privileges,
        Self::User,
        Self::Init,
        Self::Program,
    ];
}

/// What the child leaves behind for the agent.
#[derive(Debug, Default)]
pub(super) struct Report {
    pid: AtomicU32,
    step: AtomicU32,
    errno: AtomicI32,
}

impl Report {
    /// The child's number in its own PID namespace.
    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Relaxed)
    }

    /// Says where and why it failed.
    pub(super) fn fail(&self, (step, errno): (Step, Errno)) {
        self.errno.store(errno.raw_os_error(), Relaxed);
        self.step.store(step as u32, Relaxed);
    }

    /// Where and why it failed; `None` when it runs its program.
    pub(super) fn failure(&self) -> Option<(Step, Errno)> {
        let step = self.step.load(Relaxed);
        let step = Step::ALL.into_iter().find(|known| *known as u32 == step)?;
        Some((step, Errno::from_raw_os_error(self.errno.load(Relaxed))))
    }
}

/// Where a child lives, whatever it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChildPlacement<'a> {
    pub(super) mount_namespace: BorrowedFd<'a>,
    pub(super) cgroup_namespace: BorrowedFd<'a>,
    pub(super) place: Place,
}

/// Whose rights a program gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights<'a> {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: &'a [Gid],
}

/// All that the child needs, made ready before it is born or, if it is a zygote, before it wakes.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) placement: ChildPlacement<'a>,
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Whether `stdio` is a terminal, to be the controlling one.
    pub(super) terminal: bool,
    /// Numbers of resources and their limits, where they are not [`OPEN_FILES`].
    pub(super) rlimits: &'a [(u32, libc::rlimit64)],
    /// `None` is the root, where every child begins.
    pub(super) workdir: Option<&'a CStr>,
    /// `None` is root with its one group, as whom every child begins.
    pub(super) rights: Option<Rights<'a>>,
    /// Capabilities that the process and its children can ever have; `None` is all.
    pub(super) capabilities: Option<CapabilitySet>,
    /// Whether programs give no privileges.
    pub(super) no_new_privileges: bool,
    /// The program that runs all of `arguments`, in place of `programs`.
    pub(super) init: Option<BorrowedFd<'a>>,
    /// The program's possible paths, tried in order.
    pub(super) programs: &'a [*const c_char],
    /// Ended by null, as `environment` is.
    pub(super) arguments: &'a [*const c_char],
    pub(super) environment: &'a [*const c_char],
    pub(super) report: Report,
}

/// The child's first function.
///
/// # Safety
/// `plan` points to a plan whose pointers are valid C strings, for as long as the child shares
/// the agent's memory.
pub(super) unsafe extern "C" fn run(plan: *const Plan<'_>) -> ! {
    // SAFETY: valid and only read, by this function's contract.
    let plan = unsafe { &*plan };
    let settled = settle(&plan.placement);
    // SAFETY: the pointers are valid, by this function's contract.
    unsafe { run_settled(settled, plan) }
}

/// Goes on from [`settle`] to the program.
///
/// # Safety
/// As for [`run`].
pub(super) unsafe fn run_settled(settled: Result<(), (Step, Errno)>, plan: &Plan<'_>) -> ! {
    plan.report
        .pid
        .store(getpid().as_raw_nonzero().get().unsigned_abs(), Relaxed);
    let failed = match settled.and_then(|()| prepare(plan)) {
        // SAFETY: the pointers are valid, by this function's contract.
        Ok(()) => unsafe { execute(plan) },
        Err(failed) => failed,
    };
    plan.report.fail(failed);
    exit()
}

/// Ends this process at once, without running the agent's exit handlers.
pub(super) fn exit() -> ! {
    // SAFETY: touches no memory of the agent.
    unsafe { libc::_exit(127) }
}

/// Takes the child to where it lives, and makes it what most are: root, with the usual limits.
pub(super) fn settle(placement: &ChildPlacement<'_>) -> Result<(), (Step, Errno)> {
    setsid().map_err(at(Step::Terminal))?;
    enter_root(placement.mount_namespace).map_err(at(Step::Namespace))?;
    enter(placement.cgroup_namespace, LinkNameSpaceType::ControlGroup)
        .map_err(at(Step::Namespace))?;
    if placement.place.has_own_mounts() {
        // SAFETY: a mount namespace changes no descriptor and no memory.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(at(Step::Namespace))?;
    }
    if placement.place == Place::Rehearsal {
        make_read_only().map_err(at(Step::Namespace))?;
    }
    if placement.place.has_own_pids() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"proc", c"/proc", c"proc", flags, None).map_err(at(Step::Proc))?;
    }
    reset_signals().map_err(at(Step::Stdio))?;
    umask(Mode::from_raw_mode(0o022));
    let (resource, limit) = &OPEN_FILES;
    set_limit(*resource, limit).map_err(at(Step::Limits))?;
    set_thread_groups(&[Gid::ROOT]).map_err(at(Step::User))
}

fn at(step: Step) -> impl Fn(Errno) -> (Step, Errno) {
    move |errno| (step, errno)
}

fn prepare(plan: &Plan<'_>) -> Result<(), (Step, Errno)> {
    own_descriptors().map_err(at(Step::Stdio))?;
    for (number, fd) in [0, 1, 2].into_iter().zip(plan.stdio) {
        duplicate(fd, number).map_err(at(Step::Stdio))?;
    }
    if plan.terminal {
        ioctl_tiocsctty(plan.stdio[0]).map_err(at(Step::Terminal))?;
    }
    for (resource, limit) in plan.rlimits {
        set_limit(*resource, limit).map_err(at(Step::Limits))?;
    }
    if let Some(workdir) = plan.workdir {
        chdir(workdir).map_err(at(Step::Workdir))?;
    }
    if let Some(kept) = plan.capabilities {
        limit_capabilities(kept).map_err(at(Step::Privileges))?;
    }
    if let Some(Rights { uid, gid, groups }) = plan.rights {
        set_thread_groups(groups).map_err(at(Step::User))?;
        set_thread_res_gid(gid, gid, gid).map_err(at(Step::User))?;
        // Leaving uid 0 drops all capabilities; for uid 0 they stay, since the machine is the jail.
        set_thread_res_uid(uid, uid, uid).map_err(at(Step::User))?;
    }
    if plan.no_new_privileges {
        control(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at(Step::Privileges))?;
    }
    Ok(())
}

/// Takes the capabilities that are not `kept` out of the bounding set. The process has them until
/// it runs its program, whose permitted set is the bounding set for root and empty for others.
fn limit_capabilities(kept: CapabilitySet) -> rustix::io::Result<()> {
    for number in (0..64).filter(|number| !kept.contains(*number)) {
        match control(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) {
            // This kernel has no capability of this number, nor of one above it.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// prctl(2) with one argument that is a number.
fn control(operation: libc::c_int, argument: libc::c_ulong) -> rustix::io::Result<()> {
    let none: libc::c_ulong = 0;
    // SAFETY: the operations of this file take no pointer and change this process alone.
    match unsafe { libc::syscall(libc::SYS_prctl, operation, argument, none, none, none) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Makes the descriptors this process's own, which a zygote shares with the agent, and sees to it
/// that its program gets none of them: each is close-on-exec already.
fn own_descriptors() -> rustix::io::Result<()> {
    let flags = libc::CLOSE_RANGE_UNSHARE | libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: close_range with these flags closes nothing and takes no pointer.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Takes this process to the workload's root.
pub(super) fn enter_root(mount_namespace: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // Entering the mount namespace also makes its root this process's root and directory.
    enter(mount_namespace, LinkNameSpaceType::Mount)
}

fn enter(namespace: BorrowedFd<'_>, kind: LinkNameSpaceType) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace, Some(kind))
}

/// Makes every mount of this process's namespace read-only. Source: mount_setattr(2).
fn make_read_only() -> rustix::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a zero; the kernel reads `attributes`, as many bytes as the
    // last argument says, and stores nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            libc::AT_RECURSIVE,
            ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn set_limit(resource: u32, limit: &libc::rlimit64) -> rustix::io::Result<()> {
    let old = ptr::null_mut::<libc::rlimit64>();
    // SAFETY: process 0 is the caller; the kernel reads `limit` and, with no `old`, stores nothing.
    match unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::from_ref(limit), old) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Makes descriptor `number` a copy of `fd`, which is above 2 and thus another one.
fn duplicate(fd: BorrowedFd<'_>, number: i32) -> rustix::io::Result<()> {
    use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
    // SAFETY: only names the target of `dup2`, which closes what was there; never dropped.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let result = dup2(fd, &mut target);
    let _ = target.into_raw_fd();
    result
}

/// Ignored signals and the mask survive an exec; the agent ignores SIGPIPE, its program must not.
fn reset_signals() -> rustix::io::Result<()> {
    // SAFETY: SIG_DFL is no function; the disposition is this process's own.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let none: u64 = 0;
    // SAFETY: the kernel reads eight bytes of `none`, its `sigset_t`, and stores nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Runs the first of the programs that can be run; returns why none could, as execvp(3) does: a
/// missing one is passed over, one that may not be run is remembered.
///
/// # Safety
/// The pointers of `plan` are valid C strings, in lists that null ends.
unsafe fn execute(plan: &Plan<'_>) -> (Step, Errno) {
    let mut outcome = Errno::NOENT;
    let (arguments, environment) = (plan.arguments.as_ptr(), plan.environment.as_ptr());
    if let Some(init) = plan.init {
        let (fd, path) = (init.as_raw_fd(), c"".as_ptr());
        let flags = libc::AT_EMPTY_PATH;
        // SAFETY: valid by this function's contract; execveat only reads them.
        unsafe { libc::syscall(libc::SYS_execveat, fd, path, arguments, environment, flags) };
        return (Step::Init, last_errno());
    }
    for program in plan.programs {
        // SAFETY: valid by this function's contract; execve only reads them.
        unsafe { libc::syscall(libc::SYS_execve, *program, arguments, environment) };
        match last_errno() {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => outcome = Errno::ACCESS,
            other => return (Step::Program, other),
        }
    }
    (Step::Program, outcome)
}

fn last_errno() -> Errno {
    // SAFETY: returns the address of this thread's errno and does nothing else.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: aligned and initialised by the C library; shared only with the agent, which sleeps.
    Errno::from_raw_os_error(unsafe { location.read() })
}
