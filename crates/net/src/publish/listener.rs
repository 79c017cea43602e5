//! One listening socket of the host.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, bind, getsockname, listen, sendto,
        socket_with, sockopt,
    },
};

use crate::{
    error::{Error, ErrorKind, Result},
    policy::Protocol,
    poller::NO_SLOT,
    slots::Slot,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishSpec {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens. Port 0 lets the kernel choose.
    pub host: SocketAddr,
    /// The port of the service in the guest.
    pub guest_port: u16,
}

/// Names a published port until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId(pub(super) Slot);

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Names it.
    pub id: PublishId,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens, with the port that the kernel chose.
    pub host: SocketAddr,
    /// The port of the service in the guest.
    pub guest_port: u16,
}

/// A port that listens and that no stack serves yet. [`Handle::publish_bound`] gives it to one.
///
/// [`Handle::publish_bound`]: crate::Handle::publish_bound
#[derive(Debug)]
pub struct BoundPort(pub(crate) Listener);

impl BoundPort {
    /// Listens as `asked`. Connections wait until a stack serves the port.
    ///
    /// # Errors
    /// `PortTaken`, `PortForbidden`, `InvalidConfig`, `Io`.
    pub fn bind(asked: &PublishSpec) -> Result<Self> {
        Listener::open(asked).map(Self)
    }

    /// Where the host listens, with the port that the kernel chose.
    #[must_use]
    pub fn host(&self) -> SocketAddr {
        self.0.port.host
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) port: PublishedPort,
}

impl Listener {
    /// Listens as `asked`.
    fn open(asked: &PublishSpec) -> Result<Self> {
        if asked.guest_port == 0 || asked.protocol == Protocol::Icmp {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "Port `{}/{}` of the guest cannot be published",
                    asked.guest_port, asked.protocol
                ),
            ));
        }
        let fd = open(asked).map_err(|error| explain(asked, error))?;
        let host = getsockname(&fd)
            .and_then(SocketAddr::try_from)
            .map_err(|error| explain(asked, error))?;
        Ok(Self {
            fd,
            port: PublishedPort {
                id: PublishId(NO_SLOT),
                protocol: asked.protocol,
                host,
                guest_port: asked.guest_port,
            },
        })
    }

    /// Sends a datagram to a peer. What the kernel does not take is lost, as on a wire.
    pub(super) fn send(&self, data: &[u8], peer: SocketAddr) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = sendto(&self.fd, data, flags, &peer);
    }
}

fn open(asked: &PublishSpec) -> std::result::Result<OwnedFd, Errno> {
    let family = if asked.host.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = if asked.protocol == Protocol::Tcp {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, kind, flags, None)?;
    if family == AddressFamily::INET6 {
        // `[::]` and `0.0.0.0` are two ports, each published or not.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    if asked.protocol == Protocol::Tcp {
        // A port whose last connections have just ended can be used again at once.
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    bind(&fd, &asked.host)?;
    if asked.protocol == Protocol::Tcp {
        listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

fn explain(asked: &PublishSpec, error: Errno) -> Error {
    let (host, protocol) = (asked.host, asked.protocol);
    let (kind, what, hint) = match error {
        Errno::ADDRINUSE => (
            ErrorKind::PortTaken,
            format!("Port `{host}/{protocol}` is taken"),
            Some("Choose another host port, or 0 for a free one"),
        ),
        Errno::ACCESS | Errno::PERM => (
            ErrorKind::PortForbidden,
            format!("This user may not listen on port `{host}/{protocol}`"),
            Some("Choose a host port from 1024 on"),
        ),
        Errno::ADDRNOTAVAIL => (
            ErrorKind::InvalidConfig,
            format!("`{}` is no address of this host", host.ip()),
            None,
        ),
        _ => (
            ErrorKind::Io,
            format!("Could not listen on port `{host}/{protocol}`"),
            None,
        ),
    };
    let error = Error::new(kind, what).because(std::io::Error::from(error));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
