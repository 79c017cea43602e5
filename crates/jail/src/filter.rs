//! A system-call filter that makes hole punching a no-op that succeeds.
//!
//! QEMU gives guest memory back by punching a hole into the memory's file and then dropping the
//! pages from its mapping (`ram_block_discard_range`), even if the mapping is private. For a
//! template's memory file that would zero pages of every other machine forked from it, at a
//! guest's wish. Hole punching that does nothing leaves the second step, which is what is wanted.
//! Disks of such a machine must be opened without discard and write-zeroes, which use the same call.
//!
//! Source: seccomp(2), `linux/audit.h`, `linux/filter.h`.

use std::io;

use crate::result::check;

/// `AUDIT_ARCH_*` of the architecture this is built for; `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`: the call's number, the architecture, and the low half of
/// the second argument, which is `mode` of fallocate(2); both architectures are little-endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "kernel constants that fit, in a table made at compile time"
)]
const PROGRAM: [libc::sock_filter; 9] = {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
    [
        step(LOAD, 0, 0, ARCH),
        step(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        // A call by another architecture's numbers: not known here, so not allowed.
        step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_EQUAL, 0, 3, libc::SYS_fallocate as u32),
        step(LOAD, 0, 0, SECOND_ARGUMENT),
        step(JUMP_ANY_BIT, 0, 1, libc::FALLOC_FL_PUNCH_HOLE as u32),
        // An error number of zero: the call is skipped and returns 0.
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
};

/// Installs the filter. Needs no_new_privs. Async-signal-safe.
pub(crate) fn keep_files_whole() -> io::Result<()> {
    let mut steps = PROGRAM;
    let program = libc::sock_fprog {
        len: 9,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: `program` points at `len` initialised steps; both outlive the call, which copies
    // them and only reads.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
            0,
            0,
        )
    };
    check(result).map(drop)
}
