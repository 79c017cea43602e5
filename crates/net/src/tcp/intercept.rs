//! Gives a flow to the proxy of the secrets.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::{context::Context, intercept::Intercepted, poller::Owner, slots::Slot};

/// Puts one end of a socket pair in the place of the flow's socket `fd`, and gives the other end and
/// that socket to the proxy. Returns whether the kernel had descriptors for it.
pub(super) fn take(cx: &Context, fd: &mut OwnedFd, slot: Slot, host: &str) -> bool {
    let Some(secrets) = &cx.config.secrets else {
        return false;
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok((ours, guest)) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return false;
    };
    if cx.poller.add(&ours, Owner::Tcp, slot).is_err() {
        return false;
    }
    // It stays open, and must not wake this thread any more.
    cx.poller.remove(&*fd);
    let server = std::mem::replace(fd, ours);
    secrets.proxy.take(Intercepted {
        guest,
        server,
        host: host.to_owned(),
    });
    true
}
