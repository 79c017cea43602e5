//! A real machine for tests: the agent as `/init` under QEMU, driven over its port with the wire's
//! own crate.
//!
//! A test that cannot have one says why and is skipped: it needs QEMU,
//! `mkfs.erofs`, `mkfs.ext4`, a static `busybox`, and the guest kernel at `COFFER_TEST_KERNEL` or
//! `target/release/coffer-vmlinux`.

mod capture;
mod cpio;
mod host;
mod peer;

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{PermissionsExt, symlink},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use capture::Capture;
pub(crate) use host::{Host, Outcome, process, shell};
pub(crate) use peer::Peer;

/// Longest that a machine may take for anything; emulation on a busy host is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running machine and its files.
pub(crate) struct Guest {
    qemu: Child,
    directory: PathBuf,
    pub(crate) host: Host,
}

/// What a root image has beside busybox.
pub(crate) type Furnish = fn(&Path);

impl Guest {
    /// Boots a machine, with a plain root furnished by `furnish`; `None` says why on stderr.
    pub(crate) fn boot(furnish: Furnish) -> Option<Self> {
        let kernel = match tools() {
            Ok(kernel) => kernel,
            Err(reason) => {
                cofferdam_testkit::skip(&reason);
                return None;
            }
        };
        let directory = scratch();
        let agent = build_agent();
        fs::write(directory.join("initramfs.cpio"), cpio::archive(&agent)).unwrap();
        make_root(&directory, furnish);
        make_upper(&directory);
        let boot = boot_args(&kernel, &directory);
        Some(Self::start(directory, &boot))
    }

    /// Boots again with the same disks, after the machine has ended.
    pub(crate) fn boot_again(&mut self) {
        self.wait();
        // QEMU has removed its sockets.
        let boot = boot_args(&tools().unwrap(), &self.directory);
        self.qemu = start(&self.directory, &boot);
        self.host = Host::new(connect(&self.directory.join("agent.sock")));
    }

    /// Starts a machine with the disks in `directory`, which `begin` boots or restores.
    fn start(directory: PathBuf, begin: &[String]) -> Self {
        let qemu = start(&directory, begin);
        let host = Host::new(connect(&directory.join("agent.sock")));
        Self {
            qemu,
            directory,
            host,
        }
    }

    /// What the kernel and the agent said on the console.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.directory.join("console.log")).unwrap_or_default()
    }

    /// Hangs up, and calls again once the agent has seen it.
    pub(crate) fn reconnect(&mut self) {
        self.host.hang_up();
        self.wait_for_console("Host has hung up");
        self.host = Host::new(connect(&self.directory.join("agent.sock")));
    }

    fn wait_for_console(&self, line: &str) {
        use rustix::fs::inotify;
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let path = self.directory.join("console.log");
        inotify::add_watch(&changes, &path, inotify::WatchFlags::MODIFY).unwrap();
        while !self.console().contains(line) {
            wait_readable(&changes, line);
            rustix::io::read(&changes, &mut [0; 4096]).unwrap();
        }
    }

    /// The other end of its network interface; without one nobody answers.
    pub(crate) fn peer(&self) -> Peer {
        Peer::new(&self.directory)
    }

    /// The file behind the upper disk.
    pub(crate) fn upper(&self) -> PathBuf {
        self.directory.join("upper.ext4")
    }

    /// Waits for QEMU's end.
    pub(crate) fn wait(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.qemu);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        wait_readable(&pidfd, "the machine's end");
        self.qemu.wait().unwrap();
    }
}

fn boot_args(kernel: &Path, directory: &Path) -> [String; 6] {
    [
        "-kernel".to_owned(),
        kernel.display().to_string(),
        "-initrd".to_owned(),
        directory.join("initramfs.cpio").display().to_string(),
        "-append".to_owned(),
        format!("console=ttyS0 loglevel=6 reboot=t panic=-1{}", clock()),
    ]
}

/// Waits for an event on `fd`.
fn wait_readable(fd: impl std::os::fd::AsFd, what: &str) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    assert_ne!(poll(&mut fds, Some(&timeout)).unwrap(), 0, "no {what}");
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("console of the machine:\n{}", self.console());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn tools() -> Result<PathBuf, String> {
    let qemu = cofferdam_testkit::qemu::find().ok_or("there is no QEMU")?;
    let qemu = qemu.to_str().ok_or("QEMU's path is not text")?;
    for tool in [qemu, "mkfs.erofs", "mkfs.ext4", "busybox"] {
        let found = Command::new(tool)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Err(format!("there is no `{tool}`"));
        }
    }
    let kernel = std::env::var_os("COFFER_TEST_KERNEL")
        .map_or_else(|| target().join("release/coffer-vmlinux"), PathBuf::from);
    if kernel.is_file() {
        Ok(kernel)
    } else {
        Err(format!("there is no kernel `{}`", kernel.display()))
    }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// The agent as it is shipped; a test build of it would be neither static nor small.
fn build_agent() -> Vec<u8> {
    if let Some(path) = std::env::var_os("COFFER_TEST_AGENT") {
        return fs::read(path).unwrap();
    }
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "cofferdam-agent",
            "--profile",
            "agent",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C relocation-model=static",
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "agent does not build");
    fs::read(target().join("x86_64-unknown-linux-gnu/agent/cofferdam-agent")).unwrap()
}

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory =
        std::env::temp_dir().join(format!("coffer-agent-{}-{number}", std::process::id()));
    // A test that was killed leaves its own, and process ids come again.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn make_root(directory: &Path, furnish: Furnish) {
    let root = directory.join("root");
    for path in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    let busybox = which("busybox");
    fs::copy(&busybox, root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    let applets = Command::new(&busybox)
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for applet in String::from_utf8(applets)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:34:\nlog:x:4:web\n",
    )
    .unwrap();
    furnish(&root);
    run(Command::new("mkfs.erofs")
        .arg("--all-root")
        .arg(directory.join("root.erofs"))
        .arg(&root));
}

fn make_upper(directory: &Path) {
    let upper = directory.join("upper.ext4");
    fs::File::create(&upper).unwrap().set_len(64 << 20).unwrap();
    // Few inodes, so that a test can use them all.
    run(Command::new("mkfs.ext4")
        .args(["-q", "-N", "1024"])
        .arg(&upper));
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|directory| directory.join(program));
    found
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("/bin").join(program))
}

fn start(directory: &Path, begin: &[String]) -> Child {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut command = cofferdam_testkit::qemu::command();
    command
        .args([
            "-M",
            "microvm,acpi=off,rtc=on",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "512",
            "-smp",
            "2",
        ])
        .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"])
        .args(begin)
        .args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", file("qmp.sock")),
        ])
        .args(["-serial", &format!("file:{}", file("console.log"))])
        // A restored machine runs at once, though the captured one was paused.
        .args(["-global", "migration.store-global-state=off"])
        .args([
            "-global",
            "virtio-mmio.force-legacy=false",
            "-device",
            "virtio-serial-device",
        ])
        .args([
            "-chardev",
            &format!(
                "socket,id=agent,path={},server=on,wait=off",
                file("agent.sock")
            ),
        ])
        .args([
            "-device",
            "virtserialport,chardev=agent,name=cofferdam.agent",
        ])
        .args([
            "-netdev",
            &format!(
                "stream,id=net,server=on,addr.type=unix,addr.path={}",
                file("net.sock")
            ),
        ])
        .args(["-device", "virtio-net-device,netdev=net"]);
    for (serial, name, read_only) in [("root", "root.erofs", "on"), ("upper", "upper.ext4", "off")]
    {
        // The host's disk is not under test, and may take seconds for a flush.
        let node = format!(
            "driver=raw,node-name={serial},read-only={read_only},cache.no-flush=on,file.driver=file,file.filename={}",
            file(name)
        );
        let node = if read_only == "on" {
            format!("{node},file.read-only=on")
        } else {
            node
        };
        command.args(["-blockdev", &node]);
        command.args([
            "-device",
            &format!("virtio-blk-device,drive={serial},serial={serial}"),
        ]);
    }
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// The rate of the time-stamp counter, which a guest cannot measure by the emulated timer of a busy
/// host; without one it loses its timers. Nor can it check there that timer interrupts arrive in
/// time: the kernel panics at boot when they do not, and the agent never says a word.
fn clock() -> String {
    cofferdam_kvm_probe::host_tsc_khz().map_or_else(String::new, |khz| {
        format!(" tsc_early_khz={khz} tsc=reliable no_timer_check")
    })
}

/// QEMU makes the socket when it is ready; inotify would tell no sooner than the next try.
fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > deadline => panic!("no socket of QEMU: {error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}
