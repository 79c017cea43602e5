//! The host's sockets of TCP flows.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use crate::wire::Unreachable;

/// After this time without a segment the kernel asks the other side whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);

/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Questions without an answer after which the connection has failed.
const KEEPALIVE_COUNT: u32 = 4;

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
///
/// A peer that vanishes without a reset would keep its flow for ever, and so take one of the
/// flows that the limit allows: keep-alive ends it after four minutes. *Source:* tcp(7); RFC 9293,
/// section 3.8.4.
pub(super) fn set_options(fd: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(fd, KEEPALIVE_COUNT);
    let _ = sockopt::set_socket_keepalive(fd, true);
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_peer_that_vanishes_is_noticed_after_four_minutes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = begin(listener.local_addr().unwrap()).unwrap();
        assert!(sockopt::socket_keepalive(&fd).unwrap());
        let idle = sockopt::tcp_keepidle(&fd).unwrap();
        let interval = sockopt::tcp_keepintvl(&fd).unwrap();
        let count = sockopt::tcp_keepcnt(&fd).unwrap();
        assert_eq!(idle + interval * count, Duration::from_secs(240));
    }
}
