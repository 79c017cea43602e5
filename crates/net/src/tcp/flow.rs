//! One TCP flow: a connection of the guest, ended here, and a socket of the host.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{getpeername, sockopt};
use smoltcp::{
    iface::{SocketHandle, SocketSet, SocketStorage},
    socket::tcp,
};

pub(super) use crate::context::NameCheck;
use crate::{intercept::Scanner, policy::Name, poller::Ready};

/// The two ends that name a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) guest: SocketAddr,
    /// The other end as the guest sees it.
    pub(super) remote: SocketAddr,
}

/// Where a flow stands; see the head of the module for the transitions.
#[derive(Debug)]
pub(super) enum State {
    /// The host's connect is under way. The guest's SYN waits for its result.
    Connecting {
        /// The IP packet of the SYN.
        syn: Vec<u8>,
    },
    /// The host's side is connected, and the guest's handshake is under way.
    Opening,
    /// Both sides are connected. Each direction ends by itself.
    Relaying {
        /// From the guest to the host.
        up: Half,
        /// From the host to the guest.
        down: Half,
    },
    /// The host's side has failed. The guest gets what the host has sent before, and then a reset.
    Failing {
        /// Whether the host's socket may have more of it.
        reading: bool,
    },
    /// The reset to the guest waits for room.
    Resetting,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Data may come.
    Open,
    /// The sender has ended it, and the receiver still has to take the data before the end.
    Ending,
    /// The sender has ended it, and the receiver got the end.
    Ended,
}

/// smoltcp's half of a flow. The set has this one socket, so smoltcp never searches.
pub(super) struct Link {
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// Bytes of both buffers.
    pub(super) buffer_bytes: usize,
    /// Answers of a guest that was asked again, without progress; see [`super::probe`].
    pub(super) answers: u8,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("buffer_bytes", &self.buffer_bytes)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A closed socket with `bytes` of buffer for each direction.
    pub(super) fn new(bytes: usize) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // The guest has its own algorithm against small segments, and the host's socket has one
        // less: what comes in goes out at once.
        socket.set_nagle_enabled(false);
        // No time-out and no keep-alive: a guest may be paused for as long as the user likes.
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            buffer_bytes: 2 * bytes,
            answers: 0,
        }
    }

    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) fd: OwnedFd,
    /// What the host's socket may do, as far as is known.
    pub(super) ready: Ready,
    /// Absent while the host connects: a flood of SYNs costs no buffers.
    pub(super) link: Option<Link>,
    /// When a connect or handshake has taken too long.
    pub(super) gives_up: Option<Instant>,
    /// When this flow has something to do without a reason from outside.
    pub(super) deadline: Option<Instant>,
    /// Whether it is in the list of flows to be looked at now.
    pub(super) queued: bool,
    /// Whether it is in the list of flows that wait for room in the queue to the guest.
    pub(super) stalled: bool,
    /// Whether the guest's FIN came. smoltcp's state may not show it any more.
    pub(super) guest_ended: bool,
    /// Whether the acknowledgement of the guest's end was sent, and smoltcp only waits out its
    /// time. It is left alone then: at the end of that time it would drop what it has received.
    pub(super) quiet: bool,
    /// Bytes of data from the guest, and to it.
    pub(super) moved: (u64, u64),
    /// How the name that the guest says is checked before its data may pass; absent: not.
    pub(super) check_name: Option<NameCheck>,
    /// When it began.
    pub(super) opened: Instant,
    /// Whether it came to a published port.
    pub(super) is_inbound: bool,
    /// Names by which the guest came to the address.
    pub(super) names: Vec<Name>,
    /// The name that the guest has said, if that was checked.
    pub(super) said: Option<Name>,
    /// Whether the first bytes of the guest are still to be looked at, for a name that is checked or
    /// a host that a proxy takes.
    pub(super) look: bool,
    /// Searches the guest's bytes for placeholders of secrets; absent: nothing to be found.
    pub(super) scanner: Option<Scanner>,
}

impl Flow {
    pub(super) fn new(
        key: Key,
        state: State,
        fd: OwnedFd,
        (now, gives_up): (Instant, Instant),
    ) -> Self {
        Self {
            key,
            state,
            fd,
            ready: Ready::default(),
            link: None,
            gives_up: Some(gives_up),
            deadline: None,
            queued: false,
            stalled: false,
            guest_ended: false,
            quiet: false,
            moved: (0, 0),
            check_name: None,
            opened: now,
            is_inbound: false,
            names: Vec::new(),
            said: None,
            look: false,
            scanner: None,
        }
    }

    /// The other end: of a connection to a published port its peer.
    pub(super) fn remote(&self) -> SocketAddr {
        let peer = || SocketAddr::try_from(getpeername(&self.fd).ok()??).ok();
        let peer = self.is_inbound.then(peer).flatten();
        peer.unwrap_or(self.key.remote)
    }

    /// The name of the other end: the one that was said, or else the first that led to it.
    pub(super) fn name(&self) -> Option<String> {
        let name = self.said.as_ref().or_else(|| self.names.first());
        name.map(Name::to_string)
    }
}

/// Makes the kernel reset the host's connection when the socket is closed.
pub(super) fn reset_host(fd: &OwnedFd) {
    // A socket that cannot do it is closed in the usual way.
    let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
}
