//! System-call filters for single threads of this process.
//!
//! Called by the threads that read what a guest or a server has sent: each gives up the calls that
//! it has no use for. A call that is not on its list fails with EPERM and has no effect. So a
//! library that tries one, for example on another version of the C library, meets an error that it
//! has to expect, and the sandbox goes on.
//!
//! A filter holds for one thread and for those that it starts. All threads of a process share its
//! memory and its descriptors. So this keeps a part of the program that was led astray from what it
//! never does; it is no wall around a thread that runs foreign code.
//!
//! Invariant: no list has a call that starts a process or a thread, opens a file for writing, sends
//! a signal other than the abort of this process, or makes memory executable.
//!
//! Source: seccomp(2), `linux/filter.h`, `linux/seccomp.h`.

use std::{io, path::Path};

use crate::{
    calls::{BASE, Call, Check, SOCKETS, STACK},
    filter::{self, AUDIT_ARCH, X32_CALLS},
    paths,
    result::check,
};

/// What a thread may do besides the use of memory, locks, clocks, random numbers and descriptors
/// that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadRights<'a> {
    /// Nothing else.
    OpenFiles,
    /// Wait for sockets that are open, and send and receive by them.
    OpenSockets,
    /// The same, and new sockets: TCP, UDP and ICMP echo, and between processes those for packets
    /// in sequence only, which no service of the system listens at.
    NewSockets {
        /// The directory with the files that may be read.
        read: &'a Path,
        /// The directory where sockets may get names, and lose them.
        names: &'a Path,
    },
}

/// Takes all rights but these from the calling thread, and from those that it starts, for good. A
/// kernel without Landlock (before Linux 5.13) does not keep it to the directories.
///
/// # Errors
/// Those of seccomp(2), as from a kernel without filters, and of the directories. The thread may
/// have lost some rights by then.
pub fn confine_thread(rights: ThreadRights<'_>) -> io::Result<()> {
    let program = program(rights);
    // SAFETY: takes numbers only, and holds for this thread.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    if let ThreadRights::NewSockets { read, names } = rights {
        paths::confine(read, names)?;
    }
    // No code of a guest runs here, so the kernel need not slow the thread down against it.
    filter::install(&program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW).map(drop)
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const ALLOW: libc::sock_filter = step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
const REFUSE: libc::sock_filter = step(
    RETURN,
    0,
    0,
    libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
);

#[allow(
    clippy::cast_possible_truncation,
    reason = "operations of a filter have 16 bits"
)]
const fn step(code: u32, if_true: u8, if_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: if_true,
        jf: if_false,
        k,
    }
}

/// The filter: calls of another architecture or of x32 are refused, then each call of the lists is
/// allowed, and all others are refused.
fn program(rights: ThreadRights<'_>) -> Vec<libc::sock_filter> {
    let mut steps = vec![
        step(LOAD, 0, 0, filter::ARCH),
        step(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        REFUSE,
        step(LOAD, 0, 0, filter::NUMBER),
        step(JUMP_AT_LEAST, 0, 1, X32_CALLS),
        REFUSE,
    ];
    let lists: &[&[Call]] = match rights {
        ThreadRights::OpenFiles => &[BASE],
        ThreadRights::OpenSockets => &[SOCKETS, BASE],
        ThreadRights::NewSockets { .. } => &[SOCKETS, BASE, STACK],
    };
    for call in lists.iter().copied().flatten() {
        append(&mut steps, call);
    }
    steps.push(REFUSE);
    steps
}

/// Allows a call. If its arguments are others, the next call of the list is looked at.
fn append(steps: &mut Vec<libc::sock_filter>, call: &Call) {
    let own = std::process::id();
    let mut body = Vec::new();
    let mut exits = Vec::new();
    for Check { argument, mask, of } in call.checks {
        body.push(step(LOAD, 0, 0, filter::argument(*argument)));
        body.push(step(AND, 0, 0, *mask));
        for (index, value) in of.iter().enumerate() {
            // Past the values that are left and the jump behind them.
            let past = u8::try_from(of.len() - index).unwrap_or(u8::MAX);
            body.push(step(JUMP_EQUAL, past, 0, value.unwrap_or(own)));
        }
        exits.push(body.len());
        body.push(step(JUMP, 0, 0, 0));
    }
    body.push(ALLOW);
    for exit in exits {
        body[exit].k = u32::try_from(body.len() - exit - 1).unwrap_or(u32::MAX);
    }
    if !call.checks.is_empty() {
        // An argument is in its place.
        body.push(step(LOAD, 0, 0, filter::NUMBER));
    }
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    steps.push(step(JUMP_EQUAL, 0, length, call.number()));
    steps.extend(body);
}

#[cfg(test)]
mod tests;
