//! One query to the host's resolvers: over UDP, and over TCP if the answer is cut.
//!
//! Each try has its own socket, so its own port, and its own number: an answer has to guess both.
//! *Source:* RFC 5452, section 9; RFC 7766.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Instant};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send,
        socket_with,
    },
};

use super::question::Question;
use crate::{
    poller::{Owner, Poller, Ready},
    slots::Slot,
};

/// How often each resolver is tried.
const ROUNDS: usize = 2;

/// Largest answer over TCP.
const MAX_BYTES: usize = 65_535;

/// Which side of the stack asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// A datagram from `guest` to `gateway`.
    Udp {
        guest: SocketAddr,
        gateway: SocketAddr,
    },
    /// A connection.
    Tcp(Slot),
}

#[derive(Debug)]
enum Transport {
    /// Between two tries.
    None,
    Udp(OwnedFd),
    Tcp {
        fd: OwnedFd,
        /// What is still to be sent.
        output: Vec<u8>,
        input: Vec<u8>,
    },
}

/// A query that waits for its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) question: Question,
    pub(super) client: Client,
    /// The number of this try.
    pub(super) id: u16,
    /// When this try is over.
    pub(super) deadline: Option<Instant>,
    /// Tries so far.
    tries: usize,
    transport: Transport,
}

impl Exchange {
    pub(super) fn new(question: Question, client: Client) -> Self {
        Self {
            question,
            client,
            id: 0,
            deadline: None,
            tries: 0,
            transport: Transport::None,
        }
    }

    /// Asks the next resolver over UDP. Returns whether there was one left to ask.
    pub(super) fn next_try(
        &mut self,
        poller: &Poller,
        resolvers: &[SocketAddr],
        slot: Slot,
    ) -> bool {
        while self.tries < resolvers.len() * ROUNDS {
            let resolver = resolvers[self.tries % resolvers.len()];
            self.tries += 1;
            if self.ask_udp(poller, resolver, slot).is_ok() {
                return true;
            }
        }
        self.transport = Transport::None;
        false
    }

    /// Asks the same resolver again over TCP, because its answer was cut. An answer over TCP that
    /// says so is a lie, so it is not asked a second time in one try.
    pub(super) fn over_tcp(
        &mut self,
        poller: &Poller,
        resolvers: &[SocketAddr],
        slot: Slot,
    ) -> bool {
        if matches!(self.transport, Transport::Tcp { .. }) {
            return false;
        }
        let resolver = resolvers[(self.tries - 1) % resolvers.len()];
        self.ask_tcp(poller, resolver, slot).is_ok()
    }

    fn new_query(&mut self) -> Result<Vec<u8>, Errno> {
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(|_| Errno::IO)?;
        self.id = u16::from_ne_bytes(id);
        self.question.for_resolver(self.id).ok_or(Errno::INVAL)
    }

    fn ask_udp(&mut self, poller: &Poller, resolver: SocketAddr, slot: Slot) -> Result<(), Errno> {
        let query = self.new_query()?;
        let fd = socket(resolver, SocketType::DGRAM)?;
        connect(&fd, &resolver)?;
        send(&fd, &query, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        poller
            .add_level(&fd, Owner::Dns, slot)
            .map_err(|_| Errno::NOMEM)?;
        self.transport = Transport::Udp(fd);
        Ok(())
    }

    fn ask_tcp(&mut self, poller: &Poller, resolver: SocketAddr, slot: Slot) -> Result<(), Errno> {
        let query = self.new_query()?;
        let fd = socket(resolver, SocketType::STREAM)?;
        match connect(&fd, &resolver) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        poller
            .add(&fd, Owner::Dns, slot)
            .map_err(|_| Errno::NOMEM)?;
        let length = u16::try_from(query.len()).map_err(|_| Errno::INVAL)?;
        let mut output = length.to_be_bytes().to_vec();
        output.extend(query);
        self.transport = Transport::Tcp {
            fd,
            output,
            input: Vec::new(),
        };
        Ok(())
    }

    /// Takes what has come. `Ok(None)`: no whole message yet.
    pub(super) fn receive(
        &mut self,
        ready: Ready,
        buffer: &mut [u8],
    ) -> Result<Option<Vec<u8>>, Errno> {
        match &mut self.transport {
            Transport::None => Ok(None),
            Transport::Udp(fd) => match recv(&*fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, count)) => Ok(Some(buffer[..count.min(MAX_BYTES)].to_vec())),
                Err(Errno::AGAIN | Errno::INTR) => Ok(None),
                Err(error) => Err(error),
            },
            Transport::Tcp { fd, output, input } => {
                if ready.write && !output.is_empty() {
                    match send(&*fd, output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                        Ok(count) => drop(output.drain(..count)),
                        Err(Errno::AGAIN | Errno::INTR) => {}
                        Err(error) => return Err(error),
                    }
                }
                read_message(fd, input)
            }
        }
    }
}

/// Reads a message with its length in front; the connection ends after it.
fn read_message(fd: &OwnedFd, input: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Errno> {
    let mut chunk = [0; 4096];
    loop {
        if let Some((length, rest)) = input.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if let Some(message) = rest.get(..length) {
                return Ok(Some(message.to_vec()));
            }
        }
        match recv(fd, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Errno::CONNRESET),
            Ok((_, count)) => input.extend(&chunk[..count]),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn socket(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, kind, flags, None)
}
