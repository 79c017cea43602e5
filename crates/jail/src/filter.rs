//! A system-call filter for a program that must not punch holes into files as it likes.
//!
//! QEMU gives guest memory back by punching a hole into the memory's file and then dropping the
//! pages from its mapping (`ram_block_discard_range`), even if the mapping is private. For a
//! template's memory file that would zero pages of every other machine forked from it, at a
//! guest's wish. What a guest discards of its disk comes by the same call with the same flags. A
//! filter sees numbers only, so it cannot tell the two files apart.
//!
//! With a listener the call is handed to this process, which can (see [`crate::holes`]). Where the
//! kernel has none (before Linux 5.0), or something around this process listens already, hole
//! punching does nothing and succeeds: then what a guest discards stays in its disk's file.
//!
//! Source: seccomp(2), seccomp_unotify(2), `linux/audit.h`, `linux/filter.h`.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::result::check;

/// `AUDIT_ARCH_*` of the architecture this is built for; `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
pub(crate) const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(crate) const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`: the call's number and the architecture.
pub(crate) const NUMBER: u32 = 0;
pub(crate) const ARCH: u32 = 4;

/// Offset of the low half of an argument, counted from 0; both architectures are little-endian.
pub(crate) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Numbers from here on are those of the x32 ABI (`__X32_SYSCALL_BIT`, `asm/unistd.h`), which has
/// the same `AUDIT_ARCH_*` as the calls of a 64-bit program. No other architecture has such numbers.
pub(crate) const X32_CALLS: u32 = 0x4000_0000;

const STEPS: u16 = 11;

/// The filter that answers hole punching with `answer` and allows all else.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "kernel constants that fit, in a table made at compile time"
)]
const fn program(answer: u32) -> [libc::sock_filter; STEPS as usize] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
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
        step(JUMP_AT_LEAST, 0, 1, X32_CALLS),
        // The same calls by other numbers: a way round this filter that no program needs.
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(JUMP_EQUAL, 0, 3, libc::SYS_fallocate as u32),
        // `mode` of fallocate(2).
        step(LOAD, 0, 0, argument(1)),
        step(JUMP_ANY_BIT, 0, 1, libc::FALLOC_FL_PUNCH_HOLE as u32),
        step(RETURN, 0, 0, answer),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Waits for an answer of the listener's.
const ASKING: [libc::sock_filter; STEPS as usize] = program(libc::SECCOMP_RET_USER_NOTIF);

/// An error number of zero: the call is skipped and returns 0.
const SILENT: [libc::sock_filter; STEPS as usize] = program(libc::SECCOMP_RET_ERRNO);

/// Installs the filter and sends its listener through `channel`; where there can be no listener,
/// installs the one that needs none and sends nothing. Needs no_new_privs. Async-signal-safe.
pub(crate) fn guard_holes(channel: BorrowedFd<'_>) -> io::Result<()> {
    match install(&ASKING, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
        Ok(listener) => {
            // SAFETY: with this flag the call returns a new descriptor that nobody else owns.
            let listener = unsafe { OwnedFd::from_raw_fd(listener) };
            send(channel, &listener)
        }
        Err(_) => install(&SILENT, 0).map(drop),
    }
}

/// Gives the calling thread and its children a listener of another one, which allows everything.
#[cfg(test)]
pub(crate) fn listen_elsewhere() -> OwnedFd {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).unwrap();
    let everything = program(libc::SECCOMP_RET_ALLOW);
    let listener = install(&everything, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).unwrap();
    // SAFETY: with this flag the call returns a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(listener) }
}

/// Installs a filter for the calling thread and its children. Async-signal-safe.
pub(crate) fn install(
    steps: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> io::Result<libc::c_int> {
    let program = libc::sock_fprog {
        len: u16::try_from(steps.len()).unwrap_or(u16::MAX),
        filter: steps.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points at `len` initialised steps; both outlive the call, which copies
    // them and only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    check(libc::c_int::try_from(result).unwrap_or(-1))
}

fn send(channel: BorrowedFd<'_>, listener: &OwnedFd) -> io::Result<()> {
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // Has room for exactly this.
    let _ = control.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(&[0])];
    sendmsg(channel, &byte, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel without x32 answers ENOSYS, so EPERM can be the filter's only.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_calls_of_x32_are_refused() {
        let errno = std::thread::spawn(|| {
            // SAFETY: takes numbers only.
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).unwrap();
            install(&SILENT, 0).unwrap();
            let call = libc::c_long::from(X32_CALLS) | libc::SYS_fallocate;
            // SAFETY: takes numbers only; no file has this descriptor.
            let result = unsafe { libc::syscall(call, -1, libc::FALLOC_FL_PUNCH_HOLE, 0, 1) };
            assert_eq!(result, -1);
            io::Error::last_os_error().raw_os_error()
        });
        assert_eq!(errno.join().unwrap(), Some(libc::EPERM));
    }
}
