//! Decides which holes a started program may punch into files, and punches them.
//!
//! One thread per program answers the listener of its filter (see [`crate::filter`]) and ends with
//! the program. It finds the file behind the descriptor of a call. One of the program's own disks
//! is punched here, by a descriptor of this process, within the disk's size. The memory file stays
//! whole, and the program gets the answer that it was punched. Any other file cannot be punched, and QEMU
//! then writes zeroes instead.
//!
//! Invariant: no call is let through. So it does not matter if the program exchanges the file
//! behind a descriptor meanwhile: the worst that it can reach is a hole in its own disk.
//!
//! Locks: none.
//!
//! Source: seccomp_unotify(2), fallocate(2), proc_pid_fd(5).

use std::{
    fs::File,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FallocateFlags, fallocate, fstat, stat},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

/// Which holes a program may punch.
#[derive(Debug)]
pub struct Holes {
    /// A file that it maps and that others map too. It stays whole.
    pub memory: File,
    /// Its own disks, open for writing: holes in these are made.
    pub disks: Vec<File>,
}

/// What the flags of fallocate(2) must be: the only way in which QEMU punches holes.
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Takes the listener that a child sent before it was executed; `None` when it could not get one.
pub(crate) fn take_listener(channel: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut buffers = [IoSliceMut::new(&mut byte)];
    recvmsg(channel, &mut buffers, &mut control, flags).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Answers `listener` until the process of `pidfd` has ended, in a thread of its own.
pub(crate) fn serve(listener: OwnedFd, pidfd: &OwnedFd, holes: Holes) -> io::Result<()> {
    let pidfd = pidfd.try_clone()?;
    let guard = Guard::new(holes)?;
    thread::Builder::new()
        .name("coffer-holes".to_owned())
        .spawn(move || {
            while wait(&listener, &pidfd) {
                if answer(&listener, &guard).is_err() {
                    // Its calls fail from now on, and so does its giving back of memory.
                    return;
                }
            }
        })?;
    Ok(())
}

/// A file, whatever its name: device and inode.
type FileId = (u64, u64);

struct Guard {
    memory: FileId,
    disks: Vec<(FileId, File)>,
    /// Keeps the file's inode from being given to another one.
    _memory: File,
}

impl Guard {
    fn new(holes: Holes) -> io::Result<Self> {
        let of = |file: &File| fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
        let with_id = |disk: File| Ok((of(&disk)?, disk));
        let disks: io::Result<_> = holes.disks.into_iter().map(with_id).collect();
        Ok(Self {
            memory: of(&holes.memory)?,
            disks: disks?,
            _memory: holes.memory,
        })
    }

    /// Does what a call asks for, as far as it may; `file` is what it wants punched, if known.
    fn punch(&self, file: Option<FileId>, call: &Call) -> Result<(), Errno> {
        // Where this process may not look, nothing is punched, as without a listener.
        let Some(file) = file else { return Ok(()) };
        if file == self.memory {
            return Ok(());
        }
        let disk = self.disks.iter().find(|(id, _)| *id == file);
        let (_, disk) = disk.ok_or(Errno::OPNOTSUPP)?;
        if call.mode != PUNCH.bits() {
            return Err(Errno::OPNOTSUPP);
        }
        let size = u64::try_from(fstat(disk)?.st_size).unwrap_or_default();
        let end = call.offset.checked_add(call.length).ok_or(Errno::INVAL)?;
        match end.min(size).checked_sub(call.offset) {
            Some(length @ 1..) => fallocate(disk, PUNCH, call.offset, length),
            _ => Ok(()),
        }
    }
}

/// Arguments of fallocate(2).
#[derive(Debug)]
struct Call {
    fd: u64,
    mode: u32,
    offset: u64,
    length: u64,
}

impl Call {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "an int argument is the low half of its register"
    )]
    const fn of(arguments: [u64; 6]) -> Self {
        let [fd, mode, offset, length, ..] = arguments;
        Self {
            fd: fd & 0xffff_ffff,
            mode: mode as u32,
            offset,
            length,
        }
    }
}

/// Waits for a call; `false` when the program has ended.
fn wait(listener: &OwnedFd, pidfd: &OwnedFd) -> bool {
    loop {
        let mut polled = [
            PollFd::new(listener, PollFlags::IN),
            // Readable once the process has ended, pidfd_open(2).
            PollFd::new(pidfd, PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) if !polled[1].revents().is_empty() => return false,
            Ok(_) => return polled[0].revents().contains(PollFlags::IN),
        }
    }
}

/// Takes one call and answers it. A call that a signal has interrupted is gone and comes again.
fn answer(listener: &OwnedFd, guard: &Guard) -> io::Result<()> {
    // SAFETY: an integer-only structure, for which zeroes are a value; the kernel wants them.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel stores one `seccomp_notif` into `call`, which outlives the call.
    let taken = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    };
    if !is_done(taken)? {
        return Ok(());
    }
    let wanted = Call::of(call.data.args);
    let file = file_of(call.pid, wanted.fd).filter(|_| is_waiting(listener, call.id));
    let error = match guard.punch(file, &wanted) {
        Ok(()) => 0,
        Err(errno) => -errno.raw_os_error(),
    };
    let mut answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error,
        flags: 0,
    };
    // SAFETY: the kernel reads one `seccomp_notif_resp` from `answer`, which outlives the call.
    let sent = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut answer,
        )
    };
    is_done(sent).map(drop)
}

/// `false` when the call is gone, or this thread was interrupted.
fn is_done(result: libc::c_int) -> io::Result<bool> {
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(false),
        error => Err(error),
    }
}

/// The file of a thread's descriptor; `None` if this process may not look.
fn file_of(thread: u32, fd: u64) -> Option<FileId> {
    let stat = stat(format!("/proc/{thread}/fd/{fd}")).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Whether the call still waits, so that its thread's number is not another's by now.
fn is_waiting(listener: &OwnedFd, id: u64) -> bool {
    /// The same with the wrong direction, which is the only one that Linux before 5.8 knows
    /// (`SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR`, kernel/seccomp.c).
    const OLD_ID_VALID: libc::Ioctl = 0x8008_2102;
    let fd = listener.as_fd().as_raw_fd();
    [libc::SECCOMP_IOCTL_NOTIF_ID_VALID, OLD_ID_VALID]
        .into_iter()
        .any(|request| {
            // SAFETY: the kernel reads one `u64` from `id`, which outlives the call.
            unsafe { libc::ioctl(fd, request, &raw const id) == 0 }
        })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    fn file(dir: &tempfile::TempDir, name: &str) -> File {
        let path = dir.path().join(name);
        fs::write(&path, [1; 16 << 10]).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn id(file: &File) -> Option<FileId> {
        let meta = file.metadata().unwrap();
        Some((meta.dev(), meta.ino()))
    }

    fn call(offset: u64, length: u64) -> Call {
        Call::of([u64::MAX, PUNCH.bits().into(), offset, length, 0, 0])
    }

    fn content(file: &File) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; 16 << 10];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn only_a_disk_is_punched_and_only_within_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let [memory, disk, other] = ["memory", "disk", "other"].map(|name| file(&dir, name));
        let of_disk = disk.try_clone().unwrap();
        let guard = Guard::new(Holes {
            memory: memory.try_clone().unwrap(),
            disks: vec![of_disk],
        })
        .unwrap();
        assert_eq!(guard.punch(id(&memory), &call(0, 4096)), Ok(()));
        assert_eq!(guard.punch(None, &call(0, 4096)), Ok(()));
        let refused = guard.punch(id(&other), &call(0, 4096));
        assert_eq!(refused, Err(Errno::OPNOTSUPP));
        for whole in [&memory, &other, &disk] {
            assert_eq!(content(whole), [1; 16 << 10]);
        }
        assert_eq!(guard.punch(id(&disk), &call(4096, 4096)), Ok(()));
        // Past the end, across it, and numbers that a signed offset cannot hold.
        assert_eq!(guard.punch(id(&disk), &call(16 << 10, 4096)), Ok(()));
        assert_eq!(guard.punch(id(&disk), &call(12 << 10, 1 << 40)), Ok(()));
        let overflow = guard.punch(id(&disk), &call(u64::MAX, 2));
        assert_eq!(overflow, Err(Errno::INVAL));
        assert_eq!(disk.metadata().unwrap().len(), 16 << 10);
        let page = |byte: u8| vec![byte; 4096];
        let expected = [page(1), page(0), page(1), page(0)].concat();
        assert_eq!(content(&disk), expected);
    }

    #[test]
    fn a_disk_is_punched_with_the_flags_of_qemu_alone() {
        let dir = tempfile::tempdir().unwrap();
        let disk = file(&dir, "disk");
        let guard = Guard::new(Holes {
            memory: file(&dir, "memory"),
            disks: vec![disk.try_clone().unwrap()],
        })
        .unwrap();
        let mode = (FallocateFlags::PUNCH_HOLE | FallocateFlags::COLLAPSE_RANGE).bits();
        let odd = Call::of([0, mode.into(), 0, 4096, 0, 0]);
        assert_eq!(guard.punch(id(&disk), &odd), Err(Errno::OPNOTSUPP));
        assert_eq!(content(&disk), [1; 16 << 10]);
    }
}
