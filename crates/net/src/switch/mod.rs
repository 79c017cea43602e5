//! The wires between the members of named networks: one socket for each direction of a pair.
//!
//! There is no process in the middle. Each stack listens at `NUMBER` in the network's directory,
//! and connects to the socket of a member when it has the first packet for it. One message is one
//! IP packet (`SOCK_SEQPACKET`). The connecting socket is bound to `FROM-TO` in the same directory
//! before it connects, and its name is gone from there at once. So the listener learns from the
//! kernel which member connects: only the user can make a name in this directory.
//!
//! A connection carries packets one way only, so two stacks that connect at the same time need no
//! agreement. Packets wait in a queue with a bound while a member does not read, and are dropped
//! when it is full. The kernel reports the end of a process, whatever its cause; the connection
//! is forgotten then, and the next packet makes a new one if the member listens again.
//!
//! *Source:* unix(7); getpeername(2).

mod input;
mod output;
mod socket;

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::output::Sent;
use self::{
    input::Inputs,
    output::{Outputs, Way},
    socket::Listener,
};
use crate::{
    error::{Result, io as failed},
    named::{Member, NamedNetwork},
    poller::{Owner, Poller, Wake},
    slots::Slot,
};

/// Networks of one sandbox.
pub(crate) const MAX_NETWORKS: usize = 16;

/// How long a listener rests when the process has no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// A member on a network of this stack: the number of the port, and the member's number.
pub(crate) type Peer = (u32, u32);

/// The stack's end of one network.
#[derive(Debug)]
struct Port {
    network: NamedNetwork,
    listener: Listener,
}

/// All networks of one stack.
#[derive(Debug)]
pub(crate) struct Switch {
    ports: HashMap<u32, Port>,
    /// Ports whose listeners rest, and until when.
    resting: Vec<(Instant, u32)>,
    /// Most connections from members, and to members.
    most: (usize, usize),
    next_port: u32,
    inputs: Inputs,
    outputs: Outputs,
    /// Counts the answers of DNS, so that their order changes.
    turn: usize,
}

impl Switch {
    /// A switch without networks. One connection of five may be to a member, the others are from
    /// members.
    pub(crate) fn new(connections: usize) -> Self {
        let outputs = connections / 5;
        Self {
            ports: HashMap::new(),
            resting: Vec::new(),
            most: (connections - outputs, outputs),
            next_port: 0,
            inputs: Inputs::default(),
            outputs: Outputs::default(),
            turn: 0,
        }
    }

    /// Listens on a network.
    pub(crate) fn join(&mut self, poller: &Poller, network: NamedNetwork) -> Result<()> {
        let what = || format!("Could not listen on the network `{}`", network.name);
        let listener = Listener::bind(&network.sockets, network.number);
        let listener = listener.map_err(|error| failed(what(), error))?;
        wait_for(poller, &listener, self.next_port).map_err(|error| failed(what(), error))?;
        self.ports
            .insert(self.next_port, Port { network, listener });
        self.next_port += 1;
        Ok(())
    }

    /// Closes everything of the network `name`.
    pub(crate) fn leave(&mut self, name: &str) {
        let gone = self
            .ports
            .iter()
            .find(|(_, port)| port.network.name == name);
        if let Some(number) = gone.map(|(number, _)| *number) {
            self.ports.remove(&number);
            self.inputs.forget(number);
            self.outputs.forget(number);
        }
    }

    /// The network of a port.
    pub(crate) fn network(&self, port: u32) -> Option<&NamedNetwork> {
        Some(&self.ports.get(&port)?.network)
    }

    /// The networks and their ports.
    pub(crate) fn networks(&self) -> impl Iterator<Item = (u32, &NamedNetwork)> {
        self.ports.iter().map(|(port, each)| (*port, &each.network))
    }

    /// The members of the network of a port.
    pub(crate) fn members(&self, port: u32) -> Arc<[Member]> {
        let members = self
            .network(port)
            .map(|network| network.directory.members());
        members.unwrap_or_else(|| Arc::new([]))
    }

    /// Sends a packet to a member.
    pub(crate) fn send(&mut self, poller: &Poller, to: Peer, packet: &[u8]) -> Sent {
        match way(&self.ports, to, self.most.1) {
            Some(way) => self.outputs.send(poller, way, packet),
            None => Sent::Nobody,
        }
    }

    /// Whether a member runs: whether somebody listens at its socket.
    pub(crate) fn is_live(&mut self, poller: &Poller, peer: Peer) -> bool {
        way(&self.ports, peer, self.most.1).is_some_and(|way| {
            let outputs = &mut self.outputs;
            way.own == peer.1 || outputs.is_connected(poller, way)
        })
    }

    /// A socket of the switch is ready.
    pub(crate) fn ready(&mut self, poller: &Poller, now: Instant, wake: Wake) {
        match wake.owner {
            Owner::SwitchListener => self.accept(poller, now, wake.slot.index),
            Owner::SwitchInput => self.inputs.ready(wake.slot),
            _ => self.outputs.ready(wake.slot, wake.ready),
        }
    }

    fn accept(&mut self, poller: &Poller, now: Instant, number: u32) {
        let Some(port) = self.ports.get(&number) else {
            return;
        };
        let (own, most) = ((number, port.network.number), self.most.0);
        if !self.inputs.accept(poller, &port.listener, own, most) {
            poller.remove(&port.listener.fd);
            self.resting.push((now + REST, number));
        }
    }

    /// Waits again for listeners that have rested. Returns how many packets were dropped after they
    /// had waited.
    pub(crate) fn turn(&mut self, poller: &Poller, now: Instant) -> u64 {
        let rested = |(until, _): &mut (Instant, u32)| *until <= now;
        let due: Vec<_> = self.resting.extract_if(.., rested).collect();
        for (_, number) in due {
            let port = self.ports.get(&number);
            if port.is_some_and(|port| wait_for(poller, &port.listener, number).is_err()) {
                self.resting.push((now + REST, number));
            }
        }
        std::mem::take(&mut self.outputs.dropped)
    }

    /// When [`Switch::turn`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.resting.iter().map(|(until, _)| *until).min()
    }

    /// Receives the next packet; [`Switch::received`] has its bytes.
    pub(crate) fn receive(&mut self) -> Option<(Peer, usize)> {
        self.inputs.receive()
    }

    /// The buffer with the packet that was received last. It has to come back by
    /// [`Switch::give_back`] before the next one.
    pub(crate) fn take_received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inputs.buffer)
    }

    /// Takes the buffer back.
    pub(crate) fn give_back(&mut self, buffer: Vec<u8>) {
        self.inputs.buffer = buffer;
    }

    /// Whether packets may wait in sockets.
    pub(crate) fn has_waiting(&self) -> bool {
        self.inputs.has_waiting()
    }

    /// Another number for each call.
    pub(crate) fn next_turn(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }
}

fn wait_for(poller: &Poller, listener: &Listener, port: u32) -> io::Result<()> {
    let slot = Slot {
        index: port,
        generation: 0,
    };
    poller.add_level(&listener.fd, Owner::SwitchListener, slot)
}

fn way(ports: &HashMap<u32, Port>, to: Peer, most: usize) -> Option<Way<'_>> {
    let network = &ports.get(&to.0)?.network;
    Some(Way {
        to,
        dir: &network.sockets,
        own: network.number,
        most,
    })
}

/// Whether an error says that nobody is at the other end.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests;
