//! One UDP flow, and the meaning of its socket's errors.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Instant};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use super::Key;
use crate::{
    policy::Name,
    wire::{Packet, Unreachable},
};

/// Bytes of a packet that an ICMP error quotes at least: IP header and eight bytes. RFC 792.
const QUOTE_BYTES: usize = 48;

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) fd: OwnedFd,
    /// When a datagram last passed.
    pub(super) used: Instant,
    /// Bytes of data from the guest, and to it.
    pub(super) moved: (u64, u64),
    /// Whether the other side has sent something.
    pub(super) answered: bool,
    /// When it began.
    pub(super) opened: Instant,
    /// Names by which the guest came to the address.
    pub(super) names: Vec<Name>,
    quote: [u8; QUOTE_BYTES],
    quote_bytes: usize,
}

impl Flow {
    pub(super) fn new(key: Key, fd: OwnedFd, names: Vec<Name>, now: Instant) -> Self {
        Self {
            key,
            fd,
            used: now,
            moved: (0, 0),
            answered: false,
            opened: now,
            names,
            quote: [0; QUOTE_BYTES],
            quote_bytes: 0,
        }
    }

    /// Remembers the start of the guest's last packet for an ICMP error.
    pub(super) fn quote(&mut self, packet: &Packet<'_>) {
        self.quote_bytes = packet.bytes.len().min(QUOTE_BYTES);
        self.quote[..self.quote_bytes].copy_from_slice(&packet.bytes[..self.quote_bytes]);
    }

    pub(super) fn quoted(&self) -> &[u8] {
        &self.quote[..self.quote_bytes]
    }
}

/// A socket that sends to `address` and receives from it only.
pub(super) fn connected(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::DGRAM, flags, None)?;
    connect(&fd, &address)?;
    Ok(fd)
}

/// The ICMP error for an error of a connected socket.
pub(super) fn explain(error: Errno, fd: &OwnedFd, remote: SocketAddr) -> Unreachable {
    match error {
        Errno::CONNREFUSED => Unreachable::Port,
        Errno::NETUNREACH | Errno::NETDOWN => Unreachable::Network,
        Errno::ACCESS | Errno::PERM => Unreachable::Prohibited,
        Errno::MSGSIZE => {
            let mtu = if remote.is_ipv4() {
                sockopt::ip_mtu(fd)
            } else {
                sockopt::ipv6_mtu(fd)
            };
            let mtu = mtu.ok().and_then(|mtu| u16::try_from(mtu).ok());
            Unreachable::TooBig(mtu.unwrap_or(u16::MAX))
        }
        _ => Unreachable::Host,
    }
}

/// The ICMP error for a socket that could not be made or connected.
pub(super) fn explain_connect(error: Errno) -> Unreachable {
    match error {
        Errno::NETUNREACH | Errno::NETDOWN => Unreachable::Network,
        Errno::ACCESS | Errno::PERM => Unreachable::Prohibited,
        _ => Unreachable::Host,
    }
}
