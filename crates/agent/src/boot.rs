//! What happens once, before the first message: the agent's own file systems and kernel settings.
//!
//! All of it runs before a template is captured, so none of it costs anything at a start.

use std::{fs, os::fd::AsFd};

use cofferdam_proto::FailureKind;
use rustix::{
    fs::Mode,
    mount::{MountFlags, mount},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{Resource, Rlimit, setrlimit},
};

use crate::{
    cgroup,
    failure::{OrFail, Result},
    log,
};

/// Descriptors that the agent itself may hold: up to seven for each of the sessions that it takes,
/// and outputs that are read into nothing.
const AGENT_FILES: u64 = 16 << 10;

/// Settings that differ from the kernel's, as Docker sets them for each container; a user who is
/// not root may listen on any port and send pings.
/// And no list of all processes with each that is killed for want of memory: a fork bomb would
/// have thousands written each time.
/// Data goes to the disk after two seconds instead of thirty, so that little of it is lost when
/// the machine is killed.
const SETTINGS: [(&str, &str); 5] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/vm/oom_dump_tasks", "0"),
    ("/proc/sys/vm/dirty_expire_centisecs", "200"),
    ("/proc/sys/vm/dirty_writeback_centisecs", "100"),
];

/// No random addresses. An emulator keeps translated code by its address: with the loader and the
/// C library elsewhere in each process, it translates them anew for each, which takes three times
/// as long as all the rest of a short process.
const WHEN_EMULATED: [(&str, &str); 1] = [("/proc/sys/kernel/randomize_va_space", "0")];

/// What QEMU's emulator says of itself in leaf 0x4000_0000, as hypervisors do.
/// Source: target/i386/cpu.c, `tcg-cpuid`.
const EMULATOR: &[u8; 12] = b"TCGTCGTCGTCG";

/// Mounts what the agent needs, makes the workload's cgroup and brings the loopback up.
pub(crate) fn prepare() -> Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC;
    let strict = plain | MountFlags::NODEV;
    mount_at("/dev", "devtmpfs", plain)?;
    mount_at("/proc", "proc", strict)?;
    mount_at("/sys", "sysfs", strict)?;
    // `cgroup::prepare` mounts its own.
    cgroup::prepare()?;
    rustix::process::umask(Mode::empty());
    let files = Rlimit {
        current: Some(AGENT_FILES),
        maximum: Some(1 << 20),
    };
    setrlimit(Resource::Nofile, files).or_fail(
        FailureKind::Internal,
        || "Could not raise the limit of open files",
    )?;
    let when_emulated = WHEN_EMULATED.iter().filter(|_| is_emulated());
    for (path, value) in SETTINGS.iter().chain(when_emulated) {
        if let Err(error) = fs::write(path, value) {
            log::error(&format!("Could not set `{path}`: {error}"));
        }
    }
    if let Err(failure) = loopback_up() {
        // A kernel without a network still runs programs.
        log::error(&failure.message);
    }
    Ok(())
}

/// Whether an emulator runs this machine, and no processor.
pub(crate) fn is_emulated() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    name.as_flattened() == EMULATOR
}

fn mount_at(target: &str, kind: &str, flags: MountFlags) -> Result<()> {
    let failed = || format!("Could not mount {kind} on `{target}`");
    fs::create_dir_all(target).or_fail(FailureKind::Mount, failed)?;
    mount(kind, target, kind, flags, None).or_fail(FailureKind::Mount, failed)
}

/// Sets `lo` up; netdevice(7) `SIOCSIFFLAGS`.
fn loopback_up() -> Result<()> {
    let failed = || "Could not bring the loopback up";
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .or_fail(FailureKind::Internal, failed)?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = i8::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: `SIOCSIFFLAGS` reads one `ifreq`, which lives through the call; `socket` is open.
    let result = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).or_fail(FailureKind::Internal, failed),
    }
}
