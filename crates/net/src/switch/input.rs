//! Connections that members have made to this stack.

use std::{collections::VecDeque, io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{Peer, socket::Listener};
use crate::{
    poller::{Owner, Poller},
    slots::{Slot, Slots},
};

/// Connections that are accepted before others have their turn.
const TURN: usize = 64;

/// Packets that one member sends before others have their turn.
const PACKETS: usize = 16;

/// Largest packet, and one byte to tell a longer one.
const BUFFER_BYTES: usize = 65_536;

#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    from: Peer,
    /// How many came before.
    age: u64,
    /// Whether it is on the list of those that may have packets.
    waiting: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Inputs {
    slots: Slots<Input>,
    /// May have packets, in the order of their turns; the first has sent some of its turn.
    waiting: VecDeque<Slot>,
    taken: usize,
    /// Connections so far.
    accepted: u64,
    pub(super) buffer: Vec<u8>,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            waiting: VecDeque::new(),
            taken: 0,
            accepted: 0,
            buffer: vec![0; BUFFER_BYTES],
        }
    }
}

impl Inputs {
    /// Accepts connections on the network of `port`, where this stack is the member `own`, and keeps
    /// `most` of all networks. A member has one, and a new one replaces it; the oldest makes room,
    /// and its member connects again. Returns whether the listener may be waited for: without a
    /// descriptor left it would wake the thread again at once.
    pub(super) fn accept(
        &mut self,
        poller: &Poller,
        listener: &Listener,
        (port, own): Peer,
        most: usize,
    ) -> bool {
        for _ in 0..TURN {
            let (fd, number) = match listener.accept(own) {
                Ok(Some(accepted)) => accepted,
                Ok(None) => continue,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    io::ErrorKind::WouldBlock => return true,
                    _ => return false,
                },
            };
            let from = (port, number);
            self.remove_if(|input| input.from == from);
            while self.slots.len() >= most.max(1) {
                self.make_room();
            }
            self.accepted += 1;
            let age = self.accepted;
            let inserted = self.slots.insert_with(|slot| {
                poller.add(&fd, Owner::SwitchInput, slot)?;
                Ok::<_, io::Error>(Input {
                    fd,
                    from,
                    age,
                    waiting: false,
                })
            });
            if let Ok(slot) = inserted {
                self.ready(slot);
            }
        }
        true
    }

    fn make_room(&mut self) {
        let slots = self.slots.slots().into_iter();
        let ages = slots.filter_map(|slot| Some((self.slots.get_mut(slot)?.age, slot)));
        if let Some((_, oldest)) = ages.min() {
            self.slots.remove(oldest);
        }
    }

    /// Forgets every connection on a port.
    pub(super) fn forget(&mut self, port: u32) {
        self.remove_if(|input| input.from.0 == port);
    }

    fn remove_if(&mut self, gone: impl Fn(&Input) -> bool) {
        for slot in self.slots.slots() {
            if self.slots.get_mut(slot).is_some_and(|input| gone(input)) {
                self.slots.remove(slot);
            }
        }
    }

    /// A connection has packets, or has ended.
    pub(super) fn ready(&mut self, slot: Slot) {
        if let Some(input) = self.slots.get_mut(slot)
            && !input.waiting
        {
            input.waiting = true;
            self.waiting.push_back(slot);
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next packet: its sender and its length in the buffer. A connection ends with one that is
    /// longer than a packet can be: no stack sends such a thing.
    pub(super) fn receive(&mut self) -> Option<(Peer, usize)> {
        while let Some(slot) = self.waiting.front().copied() {
            let Some(input) = self.slots.get_mut(slot) else {
                self.next();
                continue;
            };
            if self.taken >= PACKETS {
                self.waiting.push_back(slot);
                self.next();
                continue;
            }
            match recv(&input.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                // A message of no bytes cannot be told from the end; a packet has a header.
                Ok((_, len)) if len > 0 && len < BUFFER_BYTES => {
                    self.taken += 1;
                    return Some((input.from, len));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    input.waiting = false;
                    self.next();
                }
                Ok(_) | Err(_) => {
                    self.slots.remove(slot);
                    self.next();
                }
            }
        }
        None
    }

    fn next(&mut self) {
        self.waiting.pop_front();
        self.taken = 0;
    }
}
