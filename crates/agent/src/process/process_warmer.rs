//! A process that goes before the workload, on another processor.
//!
//! An emulated processor translates each piece of code when it first runs it, and what one has
//! translated the others have too (QEMU `docs/devel/multi-thread-tcg.rst`). A start leaves one of
//! them idle most of the time. This process uses it to do what every program does once it is
//! loaded: its loader opens and maps files, touches memory, changes its protection; then it ends,
//! as the first process of a PID namespace. The workload then finds the kernel's code for that
//! translated. On real processors, or with only one, there is nothing to gain and none is made.
//!
//! It has a copy of the agent's memory but none of its descriptors, runs no code of the image and
//! lives some milliseconds, unseen by the workload.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    ptr, thread,
};

use cofferdam_proto::FailureKind;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{Access, FileType, Mode, OFlags, access, fstat, open},
    io::{dup2, pread, read, write},
    mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap},
};

use super::{ChildStack, child, reap, signal};
use crate::{
    boot::is_emulated,
    failure::{OrFail, Result, failure},
};

/// Bytes of a page of x86-64.
const PAGE: usize = 4096;

/// Most bytes mapped of a file.
const MAX_MAPPED: usize = 256 * PAGE;

/// What glibc's loader opens, the loader itself, and a program that most images have.
const FILES: [&str; 3] = ["/etc/ld.so.cache", "/lib64/ld-linux-x86-64.so.2", "/bin/sh"];

/// The process, which waits for its cue.
#[derive(Debug)]
pub(super) struct ProcessWarmer {
    cue: OwnedFd,
    pidfd: OwnedFd,
}

/// What it is made with.
#[derive(Debug)]
struct Script<'a> {
    mount_namespace: BorrowedFd<'a>,
    cue: BorrowedFd<'a>,
    settled: BorrowedFd<'a>,
}

/// Whether one is of use in this machine.
pub(super) fn is_useful() -> bool {
    is_emulated() && thread::available_parallelism().is_ok_and(|count| count.get() > 1)
}

impl ProcessWarmer {
    /// Makes the first process of a PID namespace of its own, in the workload's root but not in its
    /// cgroup, whose limits it must not use up. It waits when this returns.
    pub(super) fn new(stack: &mut ChildStack, mount_namespace: BorrowedFd<'_>) -> Result<Self> {
        let failed = || "Could not make a process that goes before the workload";
        let kind = FailureKind::Internal;
        let cue = eventfd(0, EventfdFlags::CLOEXEC).or_fail(kind, failed)?;
        let (mut reader, settled) = io::pipe().or_fail(kind, failed)?;
        let script = Script {
            mount_namespace,
            cue: cue.as_fd(),
            settled: settled.as_fd(),
        };
        // SAFETY: `run` never returns or panics.
        let pidfd = unsafe { stack.spawn_apart(run, &script) }.or_fail(kind, failed)?;
        drop(settled);
        let process_warmer = Self { cue, pidfd };
        // Nothing comes from one that has ended.
        match reader.read(&mut [0]) {
            Ok(1) => Ok(process_warmer),
            _ => {
                process_warmer.discard();
                Err(failure(kind, failed()))
            }
        }
    }

    /// Sends it off. It ends by itself; the pidfd is for whoever reaps it.
    pub(super) fn go(self) -> OwnedFd {
        // Cannot fail: the counter is 0.
        let _ = write(&self.cue, &1_u64.to_ne_bytes());
        self.pidfd
    }

    /// Ends it.
    pub(super) fn discard(self) {
        const SIGKILL: u8 = 9;
        signal(&self.pidfd, SIGKILL);
        reap(&self.pidfd);
    }
}

/// Its first function. What fails after it has settled is of no interest.
///
/// # Safety
/// `script` is valid.
unsafe extern "C" fn run(script: *const Script<'_>) -> ! {
    // SAFETY: valid, by this function's contract, in the copy that this process has.
    let script = unsafe { &*script };
    if let Some(cue) = settle(script)
        && read(&cue, &mut [0; 8]).is_ok()
    {
        rehearse();
    }
    child::exit()
}

/// Enters the workload's root, lets go of all of the agent's descriptors and says so; returns the
/// cue.
fn settle(script: &Script<'_>) -> Option<OwnedFd> {
    child::enter_root(script.mount_namespace).ok()?;
    let cue = duplicate(script.cue, 0)?;
    let settled = duplicate(script.settled, 1)?;
    if !keep_streams(2) {
        return None;
    }
    let told = io::PipeWriter::from(settled).write(&[1]);
    told.is_ok().then_some(cue)
}

/// Closes all descriptors but the first `kept`, in a process that has a copy of the agent's and uses
/// none of the others again.
pub(super) fn keep_streams(kept: libc::c_uint) -> bool {
    // SAFETY: closes descriptors of this process alone; takes no pointer.
    unsafe { libc::syscall(libc::SYS_close_range, kept, libc::c_uint::MAX, 0) == 0 }
}

/// Makes descriptor `number`, one of the standard streams, a copy of `fd`, in a process that has a
/// copy of the agent's descriptors.
pub(super) fn duplicate(fd: BorrowedFd<'_>, number: i32) -> Option<OwnedFd> {
    // SAFETY: this process owns its copy of the table, and nothing in it uses the streams.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    match dup2(fd, &mut target) {
        Ok(()) => Some(target),
        Err(_) => {
            let _ = target.into_raw_fd();
            None
        }
    }
}

/// What a loader does, without its code.
fn rehearse() {
    let _ = access("/etc/ld.so.preload", Access::READ_OK);
    for path in FILES {
        let _ = map_file(path);
    }
    let _ = use_memory();
}

/// Opens, reads and maps a file, and writes to a page of it that nobody else sees. One that loses
/// its pages meanwhile ends this process.
fn map_file(path: &str) -> rustix::io::Result<()> {
    // The image could have a pipe there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let bytes = usize::try_from(stat.st_size).unwrap_or(0).min(MAX_MAPPED) & !(PAGE - 1);
    if !is_file || bytes < 2 * PAGE {
        return Ok(());
    }
    // As much as glibc's loader reads (elf/dl-load.c, `struct filebuf`), and again from further on,
    // as it does for program headers that it did not get.
    let mut header = [0; 832];
    let _ = read(&file, &mut header)?;
    let _ = pread(&file, &mut header, 64)?;
    let (private, readable) = (MapFlags::PRIVATE, ProtFlags::READ);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { mmap(ptr::null_mut(), bytes, readable, private, &file, 0) }?;
    // SAFETY: the first page of the mapping, which has two or more.
    unsafe { base.cast::<u8>().read_volatile() };
    let second = base.wrapping_byte_add(PAGE);
    let (fixed, writable) = (private | MapFlags::FIXED, readable | ProtFlags::WRITE);
    // SAFETY: maps anew the second page of the mapping just made, to which nothing points.
    unsafe { mmap(second, PAGE, writable, fixed, &file, PAGE as u64) }?;
    // SAFETY: the page just mapped for writing, privately.
    unsafe { second.cast::<u8>().write_volatile(1) };
    // SAFETY: a page of the mapping, to which nothing points.
    unsafe { mprotect(second, PAGE, MprotectFlags::READ) }?;
    // SAFETY: the whole mapping, to which nothing points.
    unsafe { munmap(base, bytes) }
}

/// Takes memory, touches it, protects a part of it and gives it back.
fn use_memory() -> rustix::io::Result<()> {
    const BYTES: usize = 4 * PAGE;
    let (private, writable) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { mmap_anonymous(ptr::null_mut(), BYTES, writable, private) }?;
    // SAFETY: the first page of the mapping just made.
    unsafe { base.cast::<u8>().write_volatile(1) };
    // SAFETY: the second page of it.
    unsafe { base.wrapping_byte_add(PAGE).cast::<u8>().read_volatile() };
    // SAFETY: a page of the mapping, to which nothing points.
    unsafe { mprotect(base, PAGE, MprotectFlags::READ) }?;
    // SAFETY: the whole mapping, to which nothing points.
    unsafe { munmap(base, BYTES) }
}
