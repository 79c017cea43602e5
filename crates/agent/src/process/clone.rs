//! `clone3` as `posix_spawn` uses it: the child borrows the agent's memory until it runs its
//! program, so no page tables are copied. Under emulation that halves the cost of a start.
//!
//! The agent sleeps meanwhile. Root in the workload could stop or trace the child in those
//! microseconds; it could do no more with that than with the capabilities that it has anyway.
//!
//! Source: clone(2), kernel/fork.c.

use std::{
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    sync::atomic::AtomicU32,
};

use cofferdam_proto::FailureKind;
use rustix::io::Errno;

use crate::failure::{OrFail, Result};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("The child's first instructions are written for x86-64 only");

/// Bytes of the child's stack; it calls a dozen system calls and nothing deep.
const STACK_BYTES: usize = 64 << 10;

/// Bytes below the stack that fault when touched.
const GUARD_BYTES: usize = 4 << 10;

/// The stack on which children run until they have their own program.
#[derive(Debug)]
pub(crate) struct ChildStack {
    base: ptr::NonNull<u8>,
}

impl ChildStack {
    /// Maps the stack, with a guard below. It is never unmapped: the agent never ends.
    pub(crate) fn new() -> Result<Self> {
        let failed = || "Could not map a stack";
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let bytes = GUARD_BYTES + STACK_BYTES;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        let base = (base != libc::MAP_FAILED)
            .then(|| ptr::NonNull::new(base.cast::<u8>()))
            .flatten();
        let base = base
            .ok_or_else(std::io::Error::last_os_error)
            .or_fail(FailureKind::Internal, failed)?;
        // SAFETY: the range is the first page of the mapping just made; nothing points into it.
        match unsafe { libc::mprotect(base.as_ptr().cast(), GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(Self { base }),
            _ => Err(std::io::Error::last_os_error()).or_fail(FailureKind::Internal, failed),
        }
    }

    /// Runs `child` with `argument` in a new process, a member of `cgroup` and of its own PID
    /// namespace, if it has to have one, from its first instruction. Returns its pidfd once it has
    /// run a program or ended.
    ///
    /// # Safety
    /// `child` must not return or panic, must not allocate or free, and must not touch anything
    /// of the agent but `*argument`, which it may only read and store to atomically: it shares
    /// the agent's memory and thread-local storage.
    pub(super) unsafe fn spawn<T>(
        &mut self,
        child: unsafe extern "C" fn(*const T) -> !,
        argument: &T,
        cgroup: BorrowedFd<'_>,
        own_pids: bool,
    ) -> std::result::Result<OwnedFd, Errno> {
        let own_pids = if own_pids { CLONE_NEWPID } else { 0 };
        let args = CloneArgs {
            flags: FLAGS | CLONE_VFORK | own_pids,
            cgroup: raw(cgroup),
            ..CloneArgs::default()
        };
        // SAFETY: the contract is the caller's. With `CLONE_VFORK` the agent sleeps until the child
        // has left this memory, so the stack is not used twice and `argument` outlives its use.
        unsafe { self.clone(child, argument, &args) }
    }

    /// Runs `child` with `argument` in the first process of a new PID namespace, a member of
    /// `cgroup`, and returns its pidfd at once. The child has the agent's memory and descriptors
    /// until it runs a program; then, or when it ends, the kernel stores 0 in `present` and wakes
    /// who waits for that.
    ///
    /// # Safety
    /// As for [`Self::spawn`]. Beside that, while the child runs the agent must do nothing but
    /// wait, and the stack must not be used again until `present` is 0.
    pub(super) unsafe fn spawn_beside<T>(
        &mut self,
        child: unsafe extern "C" fn(*const T) -> !,
        argument: &'static T,
        cgroup: BorrowedFd<'_>,
        present: &'static AtomicU32,
    ) -> std::result::Result<OwnedFd, Errno> {
        let args = CloneArgs {
            flags: FLAGS | CLONE_NEWPID | CLONE_FILES | CLONE_CHILD_CLEARTID,
            child_tid: present.as_ptr().expose_provenance() as u64,
            cgroup: raw(cgroup),
            ..CloneArgs::default()
        };
        // SAFETY: the contract is the caller's; what the child uses is never freed.
        unsafe { self.clone(child, argument, &args) }
    }

    /// Runs `child` with `argument` in the first process of a new PID namespace, with a copy of the
    /// agent's memory and descriptors and in its cgroup, and returns its pidfd at once.
    ///
    /// # Safety
    /// `child` must not return or panic.
    pub(super) unsafe fn spawn_apart<T>(
        &mut self,
        child: unsafe extern "C" fn(*const T) -> !,
        argument: &T,
    ) -> std::result::Result<OwnedFd, Errno> {
        let args = CloneArgs {
            flags: (FLAGS & !CLONE_VM & !CLONE_INTO_CGROUP) | CLONE_NEWPID,
            ..CloneArgs::default()
        };
        // SAFETY: the contract is the caller's; the child has its own copy of stack and argument.
        unsafe { self.clone(child, argument, &args) }
    }

    /// Calls `clone3` with `args` completed.
    ///
    /// # Safety
    /// As for [`Self::spawn`], unless the child has memory of its own; `argument` outlives the
    /// child's use of it, and nothing else runs on the stack meanwhile.
    unsafe fn clone<T>(
        &mut self,
        child: unsafe extern "C" fn(*const T) -> !,
        argument: &T,
        args: &CloneArgs,
    ) -> std::result::Result<OwnedFd, Errno> {
        let mut pidfd: i32 = -1;
        let args = CloneArgs {
            pidfd: (&raw mut pidfd).addr() as u64,
            exit_signal: SIGCHLD,
            stack: self.base.as_ptr().addr() as u64 + GUARD_BYTES as u64,
            stack_size: STACK_BYTES as u64,
            ..*args
        };
        (&raw mut pidfd).expose_provenance();
        self.base.as_ptr().expose_provenance();
        let result: i64;
        // SAFETY: the kernel reads `args`, which lives here, and stores to `pidfd`. The child gets
        // a stack of its own (16-byte aligned at its end, so the `call` leaves it as the ABI has
        // it), never comes back from `child`, and thus touches no frame of the caller. In the
        // parent the kernel changes nothing but rax, rcx and r11, as named below.
        unsafe {
            std::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "mov rdi, r12",
                "xor ebp, ebp",
                "call r13",
                "ud2",
                "2:",
                // Named, since any other could be `rbp` itself.
                in("r12") ptr::from_ref(argument),
                in("r13") child,
                inlateout("rax") libc::SYS_clone3 => result,
                in("rdi") &raw const args,
                in("rsi") size_of::<CloneArgs>(),
                out("rcx") _,
                out("r11") _,
            );
        }
        if result < 0 {
            let code = i32::try_from(-result).unwrap_or(libc::EIO);
            return Err(Errno::from_raw_os_error(code));
        }
        // SAFETY: clone3 succeeded, so `pidfd` is a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
    }
}

fn raw(fd: BorrowedFd<'_>) -> u64 {
    u64::try_from(fd.as_raw_fd()).unwrap_or_default()
}

/// Handlers are not inherited; see clone(2) for the rest.
const FLAGS: u64 = CLONE_VM
    | 0x0000_1000 // CLONE_PIDFD
    | 0x1_0000_0000 // CLONE_CLEAR_SIGHAND
    | CLONE_INTO_CGROUP;

const CLONE_VM: u64 = 0x0000_0100;
const CLONE_FILES: u64 = 0x0000_0400;
const CLONE_VFORK: u64 = 0x0000_4000;
const CLONE_CHILD_CLEARTID: u64 = 0x0020_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

const SIGCHLD: u64 = 17;

/// `struct clone_args` of linux/sched.h, version 2.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}
