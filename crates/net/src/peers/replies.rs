//! Which packets of the guest are answers, where a rule denies it to begin.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::policy::Protocol;

/// Conversations that members have begun and that a rule would deny to the guest.
const MOST: usize = 4096;

/// A conversation is over after this time without a packet of the member (RFC 5382, REQ-5).
const IDLE: Duration = Duration::from_secs(2 * 60 * 60 + 4 * 60);

/// A member's end and the guest's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    protocol_number: u8,
    member: IpAddr,
    member_port: u16,
    guest_port: u16,
}

impl Key {
    pub(super) fn new(protocol: Protocol, member: SocketAddr, guest: SocketAddr) -> Self {
        Self {
            protocol_number: match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Icmp => 1,
            },
            member: member.ip(),
            member_port: member.port(),
            guest_port: guest.port(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Replies {
    all: HashMap<Key, Instant>,
}

impl Replies {
    /// Remembers a packet of a member; returns whether there was room.
    pub(super) fn enter(&mut self, key: Key, now: Instant) -> bool {
        if self.all.len() >= MOST && !self.all.contains_key(&key) {
            self.all
                .retain(|_, last| now.saturating_duration_since(*last) < IDLE);
            if self.all.len() >= MOST {
                return false;
            }
        }
        self.all.insert(key, now);
        true
    }

    /// Whether a packet of the guest answers one.
    pub(super) fn has(&self, key: &Key, now: Instant) -> bool {
        let last = self.all.get(key);
        last.is_some_and(|last| now.saturating_duration_since(*last) < IDLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        let member = SocketAddr::new([198, 19, 1, 2].into(), port);
        let guest = SocketAddr::new([198, 19, 1, 3].into(), 80);
        Key::new(Protocol::Tcp, member, guest)
    }

    #[test]
    fn conversations_are_bounded_and_end_by_time() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        for port in 0..4096 {
            assert!(replies.enter(key(port), now));
        }
        assert!(!replies.enter(key(5000), now));
        assert!(replies.enter(key(7), now));
        assert!(replies.has(&key(7), now) && !replies.has(&key(5000), now));
        let later = now + IDLE;
        assert!(!replies.has(&key(7), later));
        assert!(replies.enter(key(5000), later));
        assert!(replies.has(&key(5000), later));
    }
}
