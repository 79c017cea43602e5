//! A connection to a server in the guest that is being made.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use cofferdam_proto::{Failure, FailureKind};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::set_tcp_nodelay,
    },
};

use crate::{
    failure::{OrFail, Result, failure},
    poll::{Poll, Token},
};

/// A connection that is being made.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// What the host asked for.
    target: String,
    addresses: Vec<SocketAddr>,
    pub(super) socket: Option<OwnedFd>,
    /// Why the addresses before could not be connected to.
    error: Errno,
}

impl Attempt {
    /// A connection to a TCP port of the loopback.
    pub(crate) fn to_port(port: u16) -> Self {
        // Taken from the end.
        let addresses = vec![
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        ];
        Self {
            target: format!("port {port}"),
            addresses,
            socket: None,
            error: Errno::CONNREFUSED,
        }
    }

    /// A connection to a Unix socket, which `file` is.
    pub(crate) fn to_socket(path: &str, file: &OwnedFd) -> Result<Self> {
        let target = format!("`{path}`");
        let internal = FailureKind::Internal;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .or_fail(internal, || "Could not make a socket")?;
        // The file was found inside the workload's root; its own path is another one here.
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .or_fail(internal, || "Could not name a socket")?;
        connect(&socket, &address).map_err(|error| refused(&target, error))?;
        Ok(Self {
            target,
            addresses: Vec::new(),
            socket: Some(socket),
            error: Errno::CONNREFUSED,
        })
    }

    /// Begins with the next address. True once the connection is there.
    ///
    /// # Errors
    /// When the last address has refused.
    pub(super) fn next(&mut self, number: u32, poll: &Poll) -> Result<bool> {
        while let Some(address) = self.addresses.pop() {
            let family = match address {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let made = socket_with(family, SocketType::STREAM, flags, None);
            let outcome = made.and_then(|socket| match connect(&socket, &address) {
                Ok(()) => Ok((socket, true)),
                Err(Errno::INPROGRESS) => Ok((socket, false)),
                Err(error) => Err(error),
            });
            match outcome {
                Ok((socket, connected)) => {
                    // Requests are often small, and each is written as a whole.
                    let _ = set_tcp_nodelay(&socket, true);
                    if !connected {
                        poll.add(&socket, Token::Connection(number), EventFlags::OUT)?;
                    }
                    self.socket = Some(socket);
                    return Ok(connected);
                }
                Err(error) => self.failed(error),
            }
        }
        Err(refused(&self.target, self.error))
    }

    /// An address could not be connected to. A refusal of one tells less than what else went wrong
    /// with another.
    pub(super) fn failed(&mut self, error: Errno) {
        self.socket = None;
        match error {
            // A guest without IPv6 has nothing at its address.
            Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::NETUNREACH => {}
            error if self.error == Errno::CONNREFUSED => self.error = error,
            _ => {}
        }
    }
}

/// Why nothing could be connected to `target`. What depends on the workload is a refusal; anything
/// else is a fault of the guest.
pub(crate) fn refused(target: &str, error: Errno) -> Failure {
    let kind = FailureKind::ConnectionRefused;
    let reason = match error {
        Errno::CONNREFUSED => {
            return failure(kind, format!("Nothing in the guest listens on {target}"));
        }
        Errno::NOENT | Errno::NOTDIR => "It is not there",
        Errno::NOTSOCK => "It is no socket",
        Errno::PROTOTYPE => "It is no socket of byte streams",
        // connect(2): the backlog of a Unix socket is full.
        Errno::AGAIN => "Too many connections wait for its server",
        Errno::TIMEDOUT => "It does not answer",
        Errno::ACCESS | Errno::PERM => "Permission denied",
        Errno::LOOP => "Too many symbolic links",
        Errno::NAMETOOLONG => "The path is too long",
        error => {
            let message = format!("Could not connect to {target} of the guest: {error}");
            return failure(FailureKind::Internal, message);
        }
    };
    failure(
        kind,
        format!("Could not connect to {target} of the guest: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_one_address_does_not_hide_the_failure_of_another() {
        let mut attempt = Attempt::to_port(7);
        attempt.failed(Errno::TIMEDOUT);
        attempt.failed(Errno::CONNREFUSED);
        assert_eq!(attempt.error, Errno::TIMEDOUT);
        let mut attempt = Attempt::to_port(7);
        attempt.failed(Errno::CONNREFUSED);
        attempt.failed(Errno::AFNOSUPPORT);
        assert_eq!(attempt.error, Errno::CONNREFUSED);
    }

    #[test]
    fn what_depends_on_the_workload_is_a_refusal_and_the_rest_is_not() {
        for error in [Errno::AGAIN, Errno::ACCESS, Errno::PROTOTYPE, Errno::NOENT] {
            let failure = refused("`/run/x`", error);
            assert_eq!(failure.kind, FailureKind::ConnectionRefused, "{failure:?}");
            assert!(!failure.message.contains("listens"), "{failure:?}");
        }
        for error in [Errno::NOMEM, Errno::MFILE, Errno::IO] {
            assert_eq!(refused("port 7", error).kind, FailureKind::Internal);
        }
    }
}
