//! Calls that confined threads try, and what becomes of them.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    thread,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, ipproto, socket_with,
};

use super::*;

/// Runs `action` on a thread with these rights.
fn confined<T: Send>(rights: ThreadRights<'_>, action: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            confine_thread(rights).unwrap();
            action()
        });
        thread.join().unwrap()
    })
}

/// The error of a call that is made with these arguments.
fn errno_of(number: libc::c_long, arguments: [libc::c_long; 6]) -> Option<i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no call of these tests writes to memory by these arguments, which are numbers,
    // no pointers or pointers to text.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    (result == -1)
        .then(|| io::Error::last_os_error().raw_os_error())
        .flatten()
}

fn refusal<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

const EPERM: Option<i32> = Some(libc::EPERM);

/// Calls that would do something, or fail in another way, without a filter.
fn forbidden() -> Vec<(&'static str, libc::c_long, [libc::c_long; 6])> {
    let own = libc::c_long::from(std::process::id());
    let text = c"/dev/null".as_ptr() as libc::c_long;
    let no_flags = [0; 6];
    vec![
        ("execve", libc::SYS_execve, [text, 0, 0, 0, 0, 0]),
        ("execveat", libc::SYS_execveat, [-1, text, 0, 0, 0, 0]),
        (
            "clone",
            libc::SYS_clone,
            [i64::from(libc::CLONE_THREAD), 0, 0, 0, 0, 0],
        ),
        ("clone3", libc::SYS_clone3, no_flags),
        ("kill", libc::SYS_kill, [own, 0, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [own, own, 0, 0, 0, 0]),
        (
            "tgkill of another",
            libc::SYS_tgkill,
            [1, 1, libc::SIGABRT.into(), 0, 0, 0],
        ),
        ("pidfd_open", libc::SYS_pidfd_open, [own, 0, 0, 0, 0, 0]),
        (
            "pidfd_send_signal",
            libc::SYS_pidfd_send_signal,
            [-1, 0, 0, 0, 0, 0],
        ),
        ("ptrace", libc::SYS_ptrace, [-1, 0, 0, 0, 0, 0]),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [own, 0, 0, 0, 0, 0],
        ),
        (
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            [own, 0, 0, 0, 0, 0],
        ),
        (
            "open to write",
            libc::SYS_openat,
            [-100, text, libc::O_WRONLY.into(), 0, 0, 0],
        ),
        (
            "open by a path",
            libc::SYS_openat,
            [-100, text, libc::O_PATH.into(), 0, 0, 0],
        ),
        (
            "memfd_create",
            libc::SYS_memfd_create,
            [text, 0, 0, 0, 0, 0],
        ),
        ("renameat2", libc::SYS_renameat2, [-1, text, -1, text, 0, 0]),
        ("fchmod", libc::SYS_fchmod, [-1, 0, 0, 0, 0, 0]),
        ("ftruncate", libc::SYS_ftruncate, [-1, 0, 0, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, no_flags),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, no_flags),
        ("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, no_flags),
        ("perf_event_open", libc::SYS_perf_event_open, no_flags),
        (
            "prctl",
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0],
        ),
        ("setuid", libc::SYS_setuid, [-1, 0, 0, 0, 0, 0]),
        ("prlimit64", libc::SYS_prlimit64, no_flags),
        ("ioctl", libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]),
        (
            "fcntl",
            libc::SYS_fcntl,
            [0, libc::F_SETOWN.into(), own, 0, 0, 0],
        ),
        (
            "executable memory",
            libc::SYS_mmap,
            [
                0,
                4096,
                (libc::PROT_READ | libc::PROT_EXEC).into(),
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(),
                -1,
                0,
            ],
        ),
        (
            "memory that becomes executable",
            libc::SYS_mprotect,
            [0, 0, libc::PROT_EXEC.into(), 0, 0, 0],
        ),
    ]
}

#[test]
fn calls_that_no_list_has_fail_and_do_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (read, names) = (dir.path(), dir.path());
    let kinds = [
        ThreadRights::OpenFiles,
        ThreadRights::OpenSockets,
        ThreadRights::NewSockets { read, names },
    ];
    for rights in kinds {
        for (name, number, arguments) in forbidden() {
            assert_ne!(errno_of(libc::SYS_getpid, [0; 6]), EPERM);
            let errno = confined(rights, || errno_of(number, arguments));
            assert_eq!(errno, EPERM, "{name} with {rights:?}");
        }
        let spawned = confined(rights, || refusal(Command::new("/bin/true").spawn()));
        assert_eq!(spawned, EPERM, "{rights:?}");
        let started = confined(rights, || {
            refusal(thread::Builder::new().spawn(|| ()).map(drop))
        });
        assert_eq!(started, EPERM, "{rights:?}");
    }
}

#[test]
fn a_thread_without_the_right_to_files_and_sockets_opens_none() {
    for rights in [ThreadRights::OpenFiles, ThreadRights::OpenSockets] {
        confined(rights, || {
            assert_eq!(refusal(File::open("/dev/null")), EPERM);
            assert_eq!(refusal(UdpSocket::bind("127.0.0.1:0")), EPERM);
            assert_eq!(refusal(UnixStream::pair()), EPERM);
        });
    }
}

#[test]
fn a_confined_thread_works_on_what_is_open() {
    let mut file = tempfile::tempfile().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    confined(ThreadRights::OpenFiles, || {
        use io::Write;
        file.write_all(&vec![1; 1 << 20]).unwrap();
    });
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    confined(ThreadRights::OpenSockets, || {
        use io::{Read, Write};
        (&client).write_all(b"hello").unwrap();
        server.set_nonblocking(false).unwrap();
        let mut word = [0; 5];
        (&server).read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
        // Large enough to be mapped, moved and given back.
        let mut large = vec![7u8; 1 << 20];
        large.resize(64 << 20, 8);
        assert_eq!(
            large
                .iter()
                .map(|byte| usize::from(*byte) & 1)
                .sum::<usize>(),
            1 << 20
        );
    });
}

#[test]
fn new_sockets_are_those_of_a_network_stack_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    // A service of the system.
    let service = dir.path().join("service");
    let _listener = UnixListener::bind(&service).unwrap();
    let (read, names) = (dir.path(), dir.path());
    confined(ThreadRights::NewSockets { read, names }, || {
        let open = |family, kind, protocol| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            refusal(socket_with(family, kind, flags, protocol).map_err(io::Error::from))
        };
        let unix = AddressFamily::UNIX;
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            assert_eq!(open(family, SocketType::STREAM, None), None);
            assert_eq!(open(family, SocketType::DGRAM, None), None);
            assert_eq!(open(family, SocketType::RAW, Some(ipproto::TCP)), EPERM);
        }
        assert_eq!(open(unix, SocketType::SEQPACKET, None), None);
        assert_eq!(open(unix, SocketType::STREAM, None), EPERM);
        assert_eq!(open(unix, SocketType::DGRAM, None), EPERM);
        assert_eq!(open(AddressFamily::NETLINK, SocketType::RAW, None), EPERM);
        assert_eq!(open(AddressFamily::PACKET, SocketType::RAW, None), EPERM);
        assert_eq!(open(AddressFamily::VSOCK, SocketType::STREAM, None), EPERM);
        assert_eq!(refusal(UnixStream::connect(&service)), EPERM);
    });
}

/// Whether this kernel has Landlock. `cargo xtask test` requires all tests; elsewhere an old kernel
/// may run this.
fn has_landlock() -> bool {
    // SAFETY: without a rule set the call returns the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    let required = std::env::var("COFFER_REQUIRE").is_ok_and(|value| value == "all");
    assert!(version > 0 || !required, "this kernel has no Landlock");
    version > 0
}

#[test]
fn files_and_names_are_those_of_the_directories() {
    if !has_landlock() {
        println!("SKIP files_and_names_are_those_of_the_directories: no Landlock here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [read, names, other] = ["read", "names", "other"].map(|name| dir.path().join(name));
    for path in [&read, &names, &other] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), "text").unwrap();
    }
    let name = |path: &Path| {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok(bind(&fd, &SocketAddrUnix::new(path)?)?)
    };
    let (read, names) = (read.as_path(), names.as_path());
    confined(ThreadRights::NewSockets { read, names }, || {
        assert_eq!(fs::read_to_string(read.join("file")).unwrap(), "text");
        assert_eq!(refusal(fs::read(other.join("file"))), Some(libc::EACCES));
        assert_eq!(refusal(fs::read("/etc/passwd")), Some(libc::EACCES));
        assert_eq!(refusal(name(&names.join("socket"))), None);
        assert_eq!(refusal(fs::remove_file(names.join("socket"))), None);
        assert_eq!(refusal(name(&other.join("socket"))), Some(libc::EACCES));
        for path in [read.join("file"), other.join("file")] {
            assert_eq!(refusal(fs::remove_file(path)), Some(libc::EACCES));
        }
    });
    // The thread alone has lost it.
    fs::remove_file(other.join("file")).unwrap();
}

/// A kernel without x32 answers ENOSYS, so EPERM can be the filter's only.
#[cfg(target_arch = "x86_64")]
#[test]
fn calls_by_the_numbers_of_x32_are_refused() {
    let x32 = libc::c_long::from(X32_CALLS) | libc::SYS_getpid;
    let errno = confined(ThreadRights::OpenFiles, || errno_of(x32, [0; 6]));
    assert_eq!(errno, EPERM);
}

/// In a child, since a kernel without 32-bit programs kills it.
#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_a_32_bit_program_are_refused() {
    let filter = program(ThreadRights::OpenFiles);
    // SAFETY: the child makes system calls only, on data that is there.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let installed = filter::install(&filter, 0).is_ok();
        // getpid(2) by the number that it has there.
        let mut result = 20;
        // SAFETY: the call takes no arguments, and changes this register alone.
        unsafe { std::arch::asm!("int 0x80", inout("eax") result) };
        let is_refused = installed && result == -libc::EPERM;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if is_refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) }).unwrap();
    let by_kernel = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV;
    assert!(status == 0 || by_kernel, "{status:#x}");
}

#[test]
fn the_abort_of_this_process_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (read, names) = (dir.path(), dir.path());
    // Signal by signal, since the right one would end the test.
    let own = libc::c_long::from(std::process::id());
    confined(ThreadRights::NewSockets { read, names }, || {
        let no_thread = libc::c_long::from(i32::MAX);
        let abort = [own, no_thread, libc::SIGABRT.into(), 0, 0, 0];
        assert_eq!(errno_of(libc::SYS_tgkill, abort), Some(libc::ESRCH));
        let kill = [own, no_thread, libc::SIGKILL.into(), 0, 0, 0];
        assert_eq!(errno_of(libc::SYS_tgkill, kill), EPERM);
    });
}
