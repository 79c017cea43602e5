//! The guest's PID 1: mounts the root, runs the workload beside itself, serves the host.
//!
//! Packed as `/init` of an initramfs; the kernel's built-in one adds `/dev/console`. One thread,
//! one epoll loop, no async runtime. Users, groups and programs are resolved by this crate itself
//! and never by the C library: a static glibc would load the NSS modules of the image.
//!
//! What protects what: the virtual machine is the boundary. Root in the workload has every
//! capability of the guest, so the agent is kept out of its sight (parent PID namespace, own mount
//! and cgroup namespaces) for order, not for security; a host must treat the agent's messages as
//! the guest's. The kernel never lets the OOM killer take PID 1, so no score is set for it.
#![allow(
    unsafe_code,
    reason = "clone3, ioctls and namespaces have no safe wrapper"
)]

mod boot;
mod cgroup;
mod condition;
mod failure;
mod frozen;
mod identity;
mod log;
mod mounts;
mod network;
mod poll;
mod port;
mod process;
mod process_list;
mod serve;
mod session;
mod write_back;

use rustix::system::{RebootCommand, reboot};

fn main() {
    if process::init::is_asked_for() {
        process::init::run();
    }
    let ended = boot::prepare()
        .and_then(|()| port::Port::open())
        .and_then(|port| serve::Agent::new(port)?.run());
    if let Err(failure) = ended {
        log::error(&failure.message);
    }
    // PID 1 must not return: the kernel would panic. A restart ends the machine, since its
    // supervisor runs it without reboots.
    if let Err(error) = reboot(RebootCommand::Restart) {
        log::error(&format!("Could not restart: {error}"));
    }
}
