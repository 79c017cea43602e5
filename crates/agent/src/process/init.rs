//! The init of a workload that asks for one: process 1 of its namespace, which runs the workload's
//! program as a child, hands signals on to it, reaps what others leave behind, and ends as it does.
//!
//! It is the agent's own program under another name, with the rights, environment and streams that
//! the workload would have. Docker's `--init` does the same with tini, whose rules these are: the
//! child has a process group of its own, which is the terminal's foreground one; signals that
//! tell of a fault, and those of terminal access, are not handed on.
//!
//! Source: pid_namespaces(7), waitpid(2), sigwaitinfo(2), tini.c 0.19.

use std::{ffi::CString, io::Write, os::fd::OwnedFd, ptr};

use cofferdam_proto::FailureKind;
use rustix::{
    fs::{Mode, OFlags, open as open_file},
    io::Errno,
    process::{Pid, WaitOptions, WaitStatus},
};

use super::env;
use crate::failure::{OrFail, Result};

/// First argument of the init; what follows are program and arguments of the workload.
pub(super) const NAME: &str = "coffer-init";

/// Its name in lists of processes.
const COMMAND: &std::ffi::CStr = c"coffer-init";

/// The agent's program in its own root.
const PROGRAM: &str = "/init";

/// Exit codes of a shell, and Docker's, for a program that cannot be run.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Signals that are not handed on: they tell of a fault of this process, or that it may not use
/// the terminal.
const OWN: [libc::c_int; 9] = [
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Opens the program.
pub(super) fn open() -> Result<OwnedFd> {
    open_file(PROGRAM, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .or_fail(FailureKind::Internal, || {
            format!("Could not open `{PROGRAM}`")
        })
}

/// Whether this process was started as an init and is not the agent.
pub(crate) fn is_asked_for() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Runs the workload to its end, and ends with its exit code.
pub(crate) fn run() -> ! {
    // The kernel would name a program that was opened beforehand by its descriptor.
    // SAFETY: reads a string that ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, COMMAND.as_ptr()) };
    let code = match supervise() {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("could not run the workload: {error}"));
            NOT_EXECUTABLE
        }
    };
    exit(code)
}

fn supervise() -> std::io::Result<u8> {
    let handed_on = handed_on()?;
    let old = block(&handed_on)?;
    // SAFETY: this process has one thread; the child only calls what a single-threaded program may.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error()),
        0 => become_workload(&old),
        pid => pid,
    };
    loop {
        let mut signal = 0;
        // SAFETY: both live here; `sigwait` reads one and stores to the other.
        let failed = unsafe { libc::sigwait(&raw const handed_on, &raw mut signal) };
        if failed != 0 {
            return Err(std::io::Error::from_raw_os_error(failed));
        }
        if signal != libc::SIGCHLD {
            // SAFETY: takes no pointer. The child is not reaped yet, so its number is its own.
            unsafe { libc::kill(child, signal) };
        } else if let Some(code) = reap_all(child) {
            return Ok(code);
        }
    }
}

/// The signals that are waited for.
fn handed_on() -> std::io::Result<libc::sigset_t> {
    // SAFETY: `sigset_t` is plain data, which `sigfillset` fills.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` lives here.
    let mut failed = unsafe { libc::sigfillset(&raw mut set) };
    for signal in OWN {
        // SAFETY: `set` lives here.
        failed |= unsafe { libc::sigdelset(&raw mut set, signal) };
    }
    match failed {
        0 => Ok(set),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Blocks the signals that are waited for, and ignores those of terminal access; returns the mask
/// before.
fn block(set: &libc::sigset_t) -> std::io::Result<libc::sigset_t> {
    // SAFETY: `sigset_t` is plain data for which all zeroes is a value.
    let mut old: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads `set` and stores to `old`, which both live through the call.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, ptr::from_ref(set), &raw mut old) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    for signal in [libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: SIG_IGN is no function; the disposition is this process's own.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(old)
}

/// Makes this new process the workload.
fn become_workload(mask: &libc::sigset_t) -> ! {
    // A new child may always have a group of its own.
    // SAFETY: takes no pointer.
    unsafe { libc::setpgid(0, 0) };
    // SAFETY: takes no pointer.
    let group = unsafe { libc::getpid() };
    // Fails where standard input is no terminal, and then there is nothing to do.
    // SAFETY: takes no pointer; signals of terminal access are ignored.
    unsafe { libc::tcsetpgrp(0, group) };
    for signal in [libc::SIGTTIN, libc::SIGTTOU, libc::SIGPIPE] {
        // SAFETY: SIG_DFL is no function; the disposition is this process's own.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the kernel reads `mask`, which lives through the call, and stores nothing.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, ptr::from_ref(mask), ptr::null_mut()) };
    let error = execute();
    complain(&error.1);
    exit(error.0)
}

/// Runs the program that the arguments name; returns why it could not be run.
fn execute() -> (u8, String) {
    use std::os::unix::ffi::OsStringExt as _;
    let strings: Vec<CString> = std::env::args_os()
        .skip(1)
        .filter_map(|argument| CString::new(argument.into_vec()).ok())
        .collect();
    let Some(program) = strings.first().and_then(|program| program.to_str().ok()) else {
        return (NOT_FOUND, "no program was given".to_owned());
    };
    let path = std::env::var("PATH").ok();
    let path: Vec<String> = path.iter().map(|path| format!("PATH={path}")).collect();
    let arguments: Vec<_> = strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect();
    let mut outcome = Errno::NOENT;
    for candidate in env::candidates(program, &path) {
        let Ok(candidate) = CString::new(candidate) else {
            continue;
        };
        // SAFETY: the pointers are of strings that live here, in a list that null ends.
        unsafe { libc::execv(candidate.as_ptr(), arguments.as_ptr()) };
        match std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
        {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => outcome = Errno::ACCESS,
            other => {
                return (
                    NOT_EXECUTABLE,
                    failed(program, Errno::from_raw_os_error(other)),
                );
            }
        }
    }
    let code = if outcome == Errno::NOENT {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    (code, failed(program, outcome))
}

fn failed(program: &str, errno: Errno) -> String {
    format!("could not run `{program}`: {errno}")
}

/// Reaps every process that has ended; the exit code of `child` if it is one of them.
fn reap_all(child: libc::pid_t) -> Option<u8> {
    let child = Pid::from_raw(child);
    let mut code = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(pid) == child {
            code = Some(code_of(status));
        }
    }
    code
}

/// The shell's rendering: the code, or 128 + the signal's number.
fn code_of(status: WaitStatus) -> u8 {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => byte(code),
        (None, Some(signal)) => 128_u8.saturating_add(byte(signal)),
        (None, None) => 128,
    }
}

/// Says what went wrong where the workload's errors go.
fn complain(what: &str) {
    // A standard error that is closed has no reader.
    let _ = writeln!(std::io::stderr(), "{NAME}: {what}");
}

/// Ends this process at once.
fn exit(code: u8) -> ! {
    // SAFETY: touches no memory.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_terminal_access_are_not_handed_on() {
        let set = handed_on().unwrap();
        let is_in = |signal| {
            // SAFETY: `set` lives here and is only read.
            unsafe { libc::sigismember(&raw const set, signal) == 1 }
        };
        assert!(
            [libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD]
                .into_iter()
                .all(is_in)
        );
        assert!(!OWN.into_iter().any(is_in));
    }
}
