//! The host's sockets of TCP flows.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use crate::wire::Unreachable;

/// Begins to connect. The socket becomes writable when that has succeeded or failed.
pub(super) fn begin(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    set_options(&fd);
    match connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

/// Options that every host socket of a flow has. None of them is needed to be right.
pub(super) fn set_options(fd: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
}

/// The result of a connect once the socket is writable.
pub(super) fn result(fd: &OwnedFd) -> io::Result<Result<(), Errno>> {
    Ok(sockopt::socket_error(fd)?)
}

/// The ICMP error that reports a failed connect to the guest; none where a reset does.
pub(super) fn explain(error: Errno) -> Option<Unreachable> {
    match error {
        Errno::NETUNREACH | Errno::NETDOWN => Some(Unreachable::Network),
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Some(Unreachable::Host),
        Errno::ACCESS | Errno::PERM => Some(Unreachable::Prohibited),
        _ => None,
    }
}
