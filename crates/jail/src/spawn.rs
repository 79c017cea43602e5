//! From a [`Launch`] to a running child.
//!
//! Children are forked by one thread that lives as long as the process: PR_SET_PDEATHSIG fires
//! when the *thread* that forked ends, so a child forked by a pool's idle thread would be killed
//! when the pool shrinks. Source: prctl(2).

use std::{
    io,
    os::{
        fd::{OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::{
        OnceLock,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{holes, launch::Launch, setup::Setup};

/// A started program, not yet waited for.
#[derive(Debug)]
pub struct Child {
    /// Process id.
    pub pid: u32,
    /// The process itself: readable when it has ended, valid when its id is used again.
    pub pidfd: OwnedFd,
    /// Whether the holes that it punches into its disks are made. Not where it has [`Holes`] and
    /// nobody can be asked about them: then they are made nowhere, and it is told that they are.
    pub makes_holes: bool,
}

/// Starts a program. It is killed when this process ends.
///
/// # Errors
/// When it cannot be forked, prepared or executed; then no process is left.
///
/// # Blocking
/// Until the program is executed: about a millisecond.
pub fn spawn(launch: Launch) -> io::Result<Child> {
    let (reply, answer) = channel();
    spawner()?
        .send((launch, reply))
        .map_err(|_| io::Error::other("the spawning thread has ended"))?;
    answer
        .recv()
        .map_err(|_| io::Error::other("the spawning thread has ended"))?
}

type Request = (Launch, Sender<io::Result<Child>>);

fn spawner() -> io::Result<Sender<Request>> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender.clone());
    }
    let (sender, requests) = channel();
    thread::Builder::new()
        .name("coffer-spawn".to_owned())
        .spawn(move || serve(&requests))?;
    // If two threads race, the loser's sender is dropped here and its thread ends; it has
    // forked nothing.
    Ok(SPAWNER.get_or_init(|| sender).clone())
}

fn serve(requests: &Receiver<Request>) {
    while let Ok((launch, reply)) = requests.recv() {
        // A caller that went away has dropped its machine; the child is killed below.
        if let Err(unclaimed) = reply.send(start(launch))
            && let Ok(child) = unclaimed.0
        {
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        }
    }
}

fn start(launch: Launch) -> io::Result<Child> {
    let (ours, theirs) = channel_for_listener(launch.holes.is_some())?;
    let mut setup = Setup::new(&launch, theirs)?;
    let reserved = reserve(&launch)?;
    let error_output = launch.output.try_clone()?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(launch.output)
        .stderr(error_output);
    // SAFETY: `apply` is async-signal-safe as its contract says: it makes system calls on arrays
    // that `setup` owns and that exist before the fork.
    unsafe { command.pre_exec(move || setup.apply()) };
    let child = command.spawn()?;
    drop((launch.fds, reserved));
    let pid = child.id();
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| io::Error::other("the child has no process id"))?;
    // Not reaped yet, so the id is still this child's.
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    let makes_holes = match launch.holes.zip(ours) {
        None => true,
        Some((holes, channel)) => match holes::take_listener(&channel) {
            Some(listener) => {
                let served = holes::serve(listener, &pidfd, holes);
                if let Err(error) = served {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    return Err(error);
                }
                true
            }
            None => false,
        },
    };
    Ok(Child {
        pid,
        pidfd,
        makes_holes,
    })
}

/// A pair of sockets for the listener of a child's filter, if it is to have one.
fn channel_for_listener(wanted: bool) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    if !wanted {
        return Ok((None, None));
    }
    let (ours, theirs) = UnixStream::pair()?;
    Ok((Some(ours.into()), Some(theirs.into())))
}

/// Takes the numbers that the child's descriptors will have, as far as they are free, so that the
/// pipe by which `std` reports a failed exec does not get one of them and is not overwritten.
fn reserve(launch: &Launch) -> io::Result<Vec<OwnedFd>> {
    let take = |(_, target): &(OwnedFd, RawFd)| {
        rustix::io::fcntl_dupfd_cloexec(&launch.output, *target).map_err(Into::into)
    };
    launch.fds.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsString,
        fs,
        io::Read,
        os::fd::{AsFd, AsRawFd},
        path::Path,
    };

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;
    use crate::Holes;

    fn shell(script: &str, fds: Vec<(OwnedFd, RawFd)>) -> (Child, String) {
        shell_with(script, fds, false)
    }

    fn shell_with(script: &str, fds: Vec<(OwnedFd, RawFd)>, small_pages: bool) -> (Child, String) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let launch = Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            fds,
            output: theirs.into(),
            holes: None,
            small_pages,
        };
        let child = spawn(launch).unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        (child, text)
    }

    fn exit_code(child: &Child) -> Option<i32> {
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
        status.unwrap().unwrap().exit_status()
    }

    #[test]
    fn a_child_has_the_descriptors_it_was_given_and_no_others() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let _bystander = fs::File::open("/dev/null").unwrap();
        // `ls` itself opens the directory it lists, as the lowest free number.
        let (child, text) = shell(
            "echo hi >&7; exec ls /proc/self/fd",
            vec![(theirs.into(), 7)],
        );
        assert_eq!(text, "0\n1\n2\n3\n7\n");
        assert_eq!(exit_code(&child), Some(0));
        let mut word = [0; 3];
        ours.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hi\n");
    }

    #[test]
    fn descriptors_may_swap_numbers() {
        let ((mut a, x), (mut b, y)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let (x_number, y_number) = (x.as_raw_fd(), y.as_raw_fd());
        // By name, for `>&12` is none of POSIX's descriptors.
        let script = format!("echo x >/dev/fd/{y_number}; echo y >/dev/fd/{x_number}");
        let fds = vec![(x.into(), y_number), (y.into(), x_number)];
        let (child, _) = shell(&script, fds);
        assert_eq!(exit_code(&child), Some(0));
        let read = |pipe: &mut io::PipeReader| {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!((read(&mut a), read(&mut b)), ("x\n".into(), "y\n".into()));
    }

    #[test]
    fn a_child_has_no_environment_no_new_privileges_and_no_core_dumps() {
        let script =
            "tr '\\0' '\\n' </proc/self/environ; grep NoNewPrivs /proc/self/status; ulimit -c";
        let (child, text) = shell(script, Vec::new());
        assert_eq!(exit_code(&child), Some(0));
        // The shell itself sets PWD for its children.
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("PWD=")).collect();
        assert_eq!(lines, ["NoNewPrivs:\t1", "0"]);
    }

    #[test]
    fn huge_pages_are_off_only_where_small_ones_are_asked_for() {
        // A kernel without huge pages has them off everywhere.
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let here = status.lines().find(|l| l.starts_with("THP_enabled:"));
        for (small_pages, expected) in [(false, here.unwrap()), (true, "THP_enabled:\t0")] {
            let script = "grep THP_enabled /proc/self/status";
            let (child, text) = shell_with(script, Vec::new(), small_pages);
            assert_eq!(exit_code(&child), Some(0));
            assert_eq!(text.trim(), expected);
        }
    }

    #[test]
    fn a_missing_program_is_an_error_and_leaves_no_process() {
        let launch = Launch {
            program: "/nonexistent/program".into(),
            args: Vec::new(),
            fds: Vec::new(),
            output: UnixStream::pair().unwrap().1.into(),
            holes: None,
            small_pages: false,
        };
        assert_eq!(spawn(launch).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = thread::spawn(|| {
            let (_, output) = UnixStream::pair().unwrap();
            spawn(Launch {
                program: "/bin/sh".into(),
                args: vec!["-c".into(), "read line <&5; exit 3".into()],
                fds: vec![(theirs.into(), 5)],
                output: output.into(),
                holes: None,
                small_pages: false,
            })
            .unwrap()
        });
        let child = child.join().unwrap();
        // It waits for this end, then ends by itself and not by a signal.
        drop(ours);
        assert_eq!(exit_code(&child), Some(3));
    }

    #[test]
    fn where_another_listener_is_holes_are_made_nowhere_and_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let [memory, disk] = ["memory", "disk"].map(|name| dir.path().join(name));
        for path in [&memory, &disk] {
            fs::write(path, [1; 8192]).unwrap();
        }
        let open = |path: &Path| fs::File::options().write(true).open(path).unwrap();
        let (_ours, output) = UnixStream::pair().unwrap();
        let args = ["--punch-hole", "--offset", "0", "--length", "4096"];
        let mut args: Vec<OsString> = args.map(OsString::from).into();
        args.push(disk.clone().into());
        let launch = Launch {
            program: "/usr/bin/fallocate".into(),
            args,
            fds: Vec::new(),
            output: output.into(),
            holes: Some(Holes {
                memory: open(&memory),
                disks: vec![open(&disk)],
            }),
            small_pages: false,
        };
        let started = thread::spawn(move || {
            // A kernel allows one listener at a time, for a thread and all that it forks.
            let _elsewhere = crate::filter::listen_elsewhere();
            let child = start(launch).unwrap();
            (exit_code(&child), child.makes_holes)
        });
        assert_eq!(started.join().unwrap(), (Some(0), false));
        assert_eq!(fs::read(&disk).unwrap(), [1; 8192]);
    }

    #[test]
    fn holes_are_made_in_disks_and_not_in_memory_and_refused_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let [memory, disk, other] = ["memory", "disk", "other"].map(|name| dir.path().join(name));
        let punch = |path: &Path, holes: Option<Holes>| {
            let (_ours, output) = UnixStream::pair().unwrap();
            let args = ["--punch-hole", "--offset", "0", "--length", "4096"];
            let mut args: Vec<OsString> = args.map(OsString::from).into();
            args.push(path.into());
            let child = spawn(Launch {
                program: "/usr/bin/fallocate".into(),
                args,
                fds: Vec::new(),
                output: output.into(),
                holes,
                small_pages: false,
            })
            .unwrap();
            (child.makes_holes, exit_code(&child))
        };
        for path in [&memory, &disk, &other] {
            fs::write(path, [1; 8192]).unwrap();
        }
        let open = |path: &Path| fs::File::options().write(true).open(path).unwrap();
        let guarded = || {
            Some(Holes {
                memory: open(&memory),
                disks: vec![open(&disk)],
            })
        };
        let first = |path: &Path| fs::read(path).unwrap()[0];
        let (listens, code) = punch(&memory, guarded());
        assert_eq!((code, first(&memory)), (Some(0), 1));
        if !listens {
            // `cargo xtask test` requires all tests; elsewhere an old kernel may run this.
            let required = std::env::var("COFFER_REQUIRE").is_ok_and(|value| value == "all");
            assert!(!required, "this kernel gives no listener for a filter");
            println!("SKIP holes_are_made_in_disks: no listener for a filter here");
            return;
        }
        assert_eq!(punch(&disk, guarded()), (true, Some(0)));
        assert_eq!(first(&disk), 0);
        assert_eq!(punch(&other, guarded()), (true, Some(1)));
        assert_eq!(first(&other), 1);
        assert_eq!(punch(&other, None), (true, Some(0)));
        assert_eq!(first(&other), 0);
    }
}
