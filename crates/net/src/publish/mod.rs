//! Published ports: the host's listeners for services in the guest.
//!
//! The guest sees each connection and each UDP peer as a port of the gateway. A TCP connection is
//! accepted by the host's kernel before the guest knows of it; if the guest refuses, the peer gets
//! a reset. Ports are added and removed while the stack runs.

mod listener;
mod peers;

use std::{net::SocketAddr, os::fd::AsFd as _, time::Duration, time::Instant};

use rustix::{
    io::Errno,
    net::{RecvFlags, SocketFlags, accept_with, recvfrom},
};

pub use listener::{BoundPort, PublishId, PublishSpec, PublishedPort};

use self::{listener::Listener, peers::Peers};
use crate::{
    context::Context,
    error::{Error, ErrorKind, Result},
    policy::Protocol,
    poller::Owner,
    slots::{Slot, Slots},
    stats::FlowInfo,
    tcp::Tcp,
    udp,
    wire::{Datagram, Packet, Unreachable, unreachable},
};

/// Connections or datagrams that one listener takes before others have their turn.
const TURN: usize = 64;

/// How long a listener rests when the process has no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// All published ports.
#[derive(Debug)]
pub(crate) struct Published {
    listeners: Slots<Listener>,
    /// Listeners that rest, and until when.
    resting: Vec<(Instant, Slot)>,
    peers: Peers,
    buffer: Vec<u8>,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            listeners: Slots::default(),
            resting: Vec::new(),
            peers: Peers::default(),
            buffer: vec![0; 65_536],
        }
    }

    /// Serves a port of the host that listens.
    pub(crate) fn add(
        &mut self,
        cx: &Context,
        BoundPort(listener): BoundPort,
    ) -> Result<PublishedPort> {
        let port = listener.port;
        let slot = self.listeners.insert_with(|slot| {
            let added = cx.poller.add_level(&listener.fd, Owner::Publish, slot);
            added.map_err(|error| {
                Error::new(ErrorKind::Io, "Could not wait on the port").because(error)
            })?;
            Ok::<_, Error>(listener)
        })?;
        Ok(PublishedPort {
            id: PublishId(slot),
            ..port
        })
    }

    /// Stops listening. TCP connections go on.
    pub(crate) fn remove(&mut self, cx: &Context, PublishId(slot): PublishId) -> Result<()> {
        self.peers.remove_listener(cx, slot);
        match self.listeners.remove(slot) {
            Some(_) => Ok(()),
            None => Err(Error::new(
                ErrorKind::NotPublished,
                "The port is not published any more",
            )),
        }
    }

    /// The published ports.
    pub(crate) fn list(&mut self) -> Vec<PublishedPort> {
        let mut ports = Vec::new();
        for slot in self.listeners.slots() {
            if let Some(listener) = self.listeners.get_mut(slot) {
                ports.push(PublishedPort {
                    id: PublishId(slot),
                    ..listener.port
                });
            }
        }
        ports
    }

    /// A listener has a connection or a datagram.
    pub(crate) fn ready(&mut self, cx: &mut Context, tcp: &mut Tcp, slot: Slot) {
        let Some(listener) = self.listeners.get_mut(slot) else {
            return;
        };
        match listener.port.protocol {
            Protocol::Tcp => self.accept(cx, tcp, slot),
            Protocol::Udp | Protocol::Icmp => self.receive(cx, slot),
        }
    }

    fn accept(&mut self, cx: &mut Context, tcp: &mut Tcp, slot: Slot) {
        let Some(listener) = self.listeners.get_mut(slot) else {
            return;
        };
        for _ in 0..TURN {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&listener.fd, flags) {
                Ok(fd) => {
                    if let Some((guest, gateway)) = service(cx, listener.port.guest_port) {
                        tcp.dial(cx, fd, (guest, gateway.ip()));
                    }
                }
                Err(Errno::AGAIN) => return,
                // The connection is gone before it was taken.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => {
                    // No descriptors left: the listener would wake the thread again at once.
                    cx.poller.remove(&listener.fd);
                    self.resting.push((cx.now + REST, slot));
                    return;
                }
            }
        }
    }

    fn receive(&mut self, cx: &mut Context, slot: Slot) {
        let Some(listener) = self.listeners.get_mut(slot) else {
            return;
        };
        let Some((guest, gateway)) = service(cx, listener.port.guest_port) else {
            return;
        };
        for _ in 0..TURN {
            let received = recvfrom(&listener.fd, &mut self.buffer[..], RecvFlags::DONTWAIT);
            let (count, peer) = match received {
                Ok((_, count, Some(peer))) => (count, SocketAddr::try_from(peer)),
                Err(Errno::AGAIN) => return,
                // An error of a datagram that was sent earlier.
                _ => continue,
            };
            let Ok(peer) = peer else { continue };
            let Some(port) = self.peers.port_of(cx, slot, peer) else {
                continue;
            };
            let source = SocketAddr::new(gateway.ip(), port);
            udp::deliver(cx, source, guest, &self.buffer[..count]);
        }
    }

    /// A datagram of the guest to a port of the gateway: an answer to a peer, or nothing.
    pub(crate) fn datagram(
        &mut self,
        cx: &mut Context,
        packet: &Packet<'_>,
        datagram: &Datagram<'_>,
    ) {
        let peer = self.peers.by_port(datagram.destination.port(), cx.now);
        let target = peer.and_then(|(slot, peer)| {
            let listener = self.listeners.get_mut(slot)?;
            let from_service = listener.port.guest_port == datagram.source.port();
            from_service.then_some((listener, peer))
        });
        match target {
            Some((listener, peer)) => listener.send(datagram.data, peer),
            None => {
                let (guest, gateway) = (packet.source, packet.destination);
                let answer = unreachable(Unreachable::Port, guest, gateway, packet.bytes);
                cx.egress.send(&answer);
            }
        }
    }

    /// Ends what has waited too long, and wakes listeners that have rested.
    pub(crate) fn turn(&mut self, cx: &mut Context) {
        self.peers.turn(cx);
        let now = cx.now;
        let mut due = Vec::new();
        self.resting.retain(|(until, slot)| {
            if *until <= now {
                due.push(*slot);
            }
            *until > now
        });
        for slot in due {
            if let Some(listener) = self.listeners.get_mut(slot)
                && cx
                    .poller
                    .add_level(listener.fd.as_fd(), Owner::Publish, slot)
                    .is_err()
            {
                self.resting.push((now + REST, slot));
            }
        }
    }

    /// When [`Published::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let resting = self.resting.iter().map(|(until, _)| *until);
        resting.chain(self.peers.deadline()).min()
    }

    /// Forgets every UDP peer.
    pub(crate) fn reset_flows(&mut self, cx: &Context) {
        self.peers.clear(cx);
    }

    /// Every UDP peer as a flow.
    pub(crate) fn flows(&mut self, cx: &Context) -> Vec<FlowInfo> {
        let peers = self.peers.list(cx.now);
        let flows = peers.into_iter().filter_map(|(listener, remote, age)| {
            let port = self.listeners.get_mut(listener)?.port.guest_port;
            let (guest, _) = service(cx, port)?;
            Some(FlowInfo {
                protocol: Protocol::Udp,
                guest,
                remote,
                name: None,
                is_inbound: true,
                age,
                established: true,
                up_bytes: 0,
                down_bytes: 0,
            })
        });
        flows.collect()
    }
}

/// The service in the guest, and the gateway of the same family. IPv4 comes first: a server that
/// listens on every address has it, and one that listens on IPv4 only has nothing else.
fn service(cx: &Context, port: u16) -> Option<(SocketAddr, SocketAddr)> {
    let v4 = cx.config.v4.map(|v4| {
        (
            SocketAddr::new(v4.guest.into(), port),
            SocketAddr::new(v4.gateway.into(), 0),
        )
    });
    v4.or_else(|| {
        let v6 = cx.config.v6?;
        Some((
            SocketAddr::new(v6.guest.into(), port),
            SocketAddr::new(v6.gateway.into(), 0),
        ))
    })
}
