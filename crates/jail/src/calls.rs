//! The system calls that a confined thread may make.
//!
//! Used by [`crate::thread`]. The calls that are made most come first, for kernels that run a
//! filter at each call (before Linux 5.11).
//!
//! Source: syscalls(2); `cargo xtask test` runs the tests of the network and of its secrets with
//! these lists.

/// One call, and what its arguments have to be.
#[derive(Debug)]
pub(crate) struct Call {
    number: libc::c_long,
    pub(crate) checks: &'static [Check],
}

impl Call {
    pub(crate) fn number(&self) -> u32 {
        // The kernel compares numbers of 32 bits, and none is negative.
        u32::try_from(self.number).unwrap_or(u32::MAX)
    }
}

/// What the low half of an argument has to be. The kernel reads no more of those that are checked.
#[derive(Debug)]
pub(crate) struct Check {
    /// Which argument, from 0.
    pub(crate) argument: u32,
    /// The bits that count.
    pub(crate) mask: u32,
    /// One of these; `None` is the id of this process.
    pub(crate) of: &'static [Option<u32>],
}

const fn any(number: libc::c_long) -> Call {
    Call {
        number,
        checks: &[],
    }
}

const fn only(number: libc::c_long, checks: &'static [Check]) -> Call {
    Call { number, checks }
}

const fn one_of(argument: u32, mask: u32, of: &'static [Option<u32>]) -> Check {
    Check { argument, mask, of }
}

const fn word(value: libc::c_int) -> Option<u32> {
    Some(value.cast_unsigned())
}

const ALL_BITS: u32 = u32::MAX;

/// Bits of a socket's type: the others are flags.
const TYPE_BITS: u32 = !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).cast_unsigned();

const NOT_EXECUTABLE: &[Check] = &[one_of(2, libc::PROT_EXEC.cast_unsigned(), &[Some(0)])];

/// `FIONBIO` of `asm-generic/ioctls.h`, in the type of the table.
const SET_NONBLOCKING: Option<u32> = Some(0x5421);

/// Memory, locks, clocks, random numbers, the end of a thread or of the process, and descriptors
/// that are open.
pub(crate) const BASE: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_futex),
    any(libc::SYS_close),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_sched_yield),
    any(libc::SYS_getrandom),
    any(libc::SYS_madvise),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_brk),
    only(libc::SYS_mmap, NOT_EXECUTABLE),
    only(libc::SYS_mprotect, NOT_EXECUTABLE),
    // The end of a thread, and handlers of signals on it.
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    // The handler of a memory fault puts the default back, or it would be called without end.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    // How many heaps the allocator has.
    any(libc::SYS_sched_getaffinity),
    // The abort of this process.
    only(
        libc::SYS_tgkill,
        &[
            one_of(0, ALL_BITS, &[None]),
            one_of(2, ALL_BITS, &[word(libc::SIGABRT)]),
        ],
    ),
];

/// Waiting for sockets that are open, and sending and receiving by them.
pub(crate) const SOCKETS: &[Call] = &[
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendto),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_pwait2),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_ppoll),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    any(libc::SYS_shutdown),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    only(libc::SYS_ioctl, &[one_of(1, ALL_BITS, &[SET_NONBLOCKING])]),
    // Not the process that gets a descriptor's signals.
    only(
        libc::SYS_fcntl,
        &[one_of(
            1,
            ALL_BITS,
            &[
                word(libc::F_GETFL),
                word(libc::F_SETFL),
                word(libc::F_GETFD),
                word(libc::F_SETFD),
                word(libc::F_DUPFD_CLOEXEC),
            ],
        )],
    ),
];

/// Bits of an open that are not reading what is there.
const NOT_READING: u32 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH).cast_unsigned();

/// New sockets, the names of those between the members of a named network, and the list of these.
/// Which files are read, and where names are removed, is for [`crate::paths`].
pub(crate) const STACK: &[Call] = &[
    only(
        libc::SYS_socket,
        &[
            one_of(0, ALL_BITS, &[word(libc::AF_INET), word(libc::AF_INET6)]),
            one_of(
                1,
                TYPE_BITS,
                &[word(libc::SOCK_STREAM), word(libc::SOCK_DGRAM)],
            ),
        ],
    ),
    only(
        libc::SYS_socket,
        &[
            one_of(0, ALL_BITS, &[word(libc::AF_UNIX)]),
            one_of(1, TYPE_BITS, &[word(libc::SOCK_SEQPACKET)]),
        ],
    ),
    any(libc::SYS_socketpair),
    any(libc::SYS_connect),
    any(libc::SYS_bind),
    any(libc::SYS_listen),
    any(libc::SYS_accept4),
    only(libc::SYS_openat, &[one_of(2, NOT_READING, &[Some(0)])]),
    any(libc::SYS_fstat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
    any(libc::SYS_unlinkat),
    // The same by older numbers, which a C library may use.
    #[cfg(target_arch = "x86_64")]
    only(libc::SYS_open, &[one_of(1, NOT_READING, &[Some(0)])]),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_stat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_lstat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_unlink),
];
