//! Which packets of the guest are answers, where a rule denies it to begin.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{policy::Protocol, switch::Peer};

/// Conversations that members have begun and that a rule would deny to the guest.
const MOST: usize = 8192;

/// Those of one member; its oldest makes room.
const MOST_OF_MEMBER: usize = 1024;

/// A TCP connection is over after this time without a packet of the member (RFC 5382, REQ-5).
const TCP_IDLE: Duration = Duration::from_secs(2 * 60 * 60 + 4 * 60);

/// So is one that is not established yet, or that was reset (RFC 5382, REQ-5).
const TCP_SHORT: Duration = Duration::from_secs(4 * 60);

/// So are datagrams (RFC 4787, REQ-5).
const UDP_IDLE: Duration = Duration::from_secs(2 * 60);

/// So are ICMP queries (RFC 5508, REQ-2).
const ICMP_IDLE: Duration = Duration::from_secs(60);

/// A member's end and the guest's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    protocol: Protocol,
    member: IpAddr,
    member_port: u16,
    guest_port: u16,
}

impl Key {
    pub(super) fn new(protocol: Protocol, member: SocketAddr, guest: SocketAddr) -> Self {
        Self {
            protocol,
            member: member.ip(),
            member_port: member.port(),
            guest_port: guest.port(),
        }
    }
}

/// What a packet does to a connection. Packets of other protocols than TCP go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It asks for one.
    Open,
    /// It resets it.
    Reset,
    /// It is part of it.
    GoOn,
}

#[derive(Clone, Copy, Debug)]
struct Conversation {
    over: Instant,
    /// Whether the guest has answered.
    answered: bool,
    /// Whether the member has sent more since.
    established: bool,
}

/// The conversations of one member.
type OfMember = HashMap<Key, Conversation>;

#[derive(Debug, Default)]
pub(super) struct Replies {
    all: HashMap<Peer, OfMember>,
    count: usize,
}

impl Replies {
    /// Remembers a packet of a member.
    pub(super) fn enter(&mut self, from: Peer, key: Key, step: Step, now: Instant) {
        let known = self.all.get(&from).and_then(|own| own.get(&key)).copied();
        let mut entry = known
            .filter(|entry| now < entry.over && step == Step::GoOn)
            .unwrap_or(Conversation {
                over: now,
                answered: false,
                established: false,
            });
        entry.established |= entry.answered;
        entry.over = now + idle(key.protocol, entry.established);
        if known.is_none() {
            self.make_room(from, now);
            self.count += 1;
        }
        self.all.entry(from).or_default().insert(key, entry);
    }

    /// Whether a packet of the guest answers one.
    pub(super) fn answers(&mut self, to: Peer, key: &Key, step: Step, now: Instant) -> bool {
        let entry = self.all.get_mut(&to).and_then(|own| own.get_mut(key));
        let Some(entry) = entry.filter(|entry| now < entry.over) else {
            return false;
        };
        match step {
            Step::GoOn => entry.answered = true,
            Step::Open | Step::Reset => {
                (entry.answered, entry.established) = (false, false);
                entry.over = entry.over.min(now + idle(key.protocol, false));
            }
        }
        true
    }

    /// Makes room for one more of a member: it gives way itself, or the member that has most.
    fn make_room(&mut self, from: Peer, now: Instant) {
        if self
            .all
            .get(&from)
            .is_some_and(|own| own.len() >= MOST_OF_MEMBER)
        {
            return self.forget_of(from, now);
        }
        if self.count >= MOST {
            let most = self.all.iter().max_by_key(|(_, own)| own.len());
            if let Some(peer) = most.map(|(peer, _)| *peer) {
                self.forget_of(peer, now);
            }
        }
    }

    /// Forgets a member's conversations that are over, or the one that is over first.
    fn forget_of(&mut self, peer: Peer, now: Instant) {
        let Some(own) = self.all.get_mut(&peer) else {
            return;
        };
        let before = own.len();
        own.retain(|_, entry| now < entry.over);
        if own.len() == before {
            let first = own.iter().min_by_key(|(_, entry)| entry.over);
            if let Some(key) = first.map(|(key, _)| *key) {
                own.remove(&key);
            }
        }
        self.count -= before - own.len();
        if own.is_empty() {
            self.all.remove(&peer);
        }
    }
}

fn idle(protocol: Protocol, established: bool) -> Duration {
    match protocol {
        Protocol::Tcp if established => TCP_IDLE,
        Protocol::Tcp => TCP_SHORT,
        Protocol::Udp => UDP_IDLE,
        Protocol::Icmp => ICMP_IDLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = (0, 2);

    fn key(protocol: Protocol, port: u16) -> Key {
        let member = SocketAddr::new([198, 19, 1, 2].into(), port);
        let guest = SocketAddr::new([198, 19, 1, 3].into(), 80);
        Key::new(protocol, member, guest)
    }

    fn has(replies: &Replies, peer: Peer, port: u16, now: Instant) -> bool {
        let mut copy = Replies {
            all: replies.all.clone(),
            count: replies.count,
        };
        copy.answers(peer, &key(Protocol::Tcp, port), Step::GoOn, now)
    }

    #[test]
    fn conversations_end_by_time() {
        let now = Instant::now();
        for (protocol, time) in [
            (Protocol::Tcp, TCP_SHORT),
            (Protocol::Udp, UDP_IDLE),
            (Protocol::Icmp, ICMP_IDLE),
        ] {
            let (mut replies, key) = (Replies::default(), key(protocol, 1));
            replies.enter(PEER, key, Step::Open, now);
            let last = now + time - Duration::from_nanos(1);
            assert!(replies.answers(PEER, &key, Step::GoOn, last));
            // An answer alone does not make it longer.
            assert!(!replies.answers(PEER, &key, Step::GoOn, now + time));
        }
    }

    #[test]
    fn a_connection_is_long_from_the_handshake_to_the_reset() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let key = key(Protocol::Tcp, 1);
        let late = now + TCP_SHORT;
        replies.enter(PEER, key, Step::Open, now);
        // Nothing of the member's own makes it established.
        replies.enter(PEER, key, Step::GoOn, now);
        assert!(!replies.answers(PEER, &key, Step::GoOn, late));
        replies.enter(PEER, key, Step::Open, now);
        assert!(replies.answers(PEER, &key, Step::GoOn, now));
        replies.enter(PEER, key, Step::GoOn, now);
        assert!(replies.answers(PEER, &key, Step::GoOn, late));
        assert!(!replies.answers(PEER, &key, Step::GoOn, now + TCP_IDLE));
        assert!(replies.answers(PEER, &key, Step::Reset, late));
        assert!(!replies.answers(PEER, &key, Step::GoOn, late + TCP_SHORT));
    }

    #[test]
    fn a_member_that_begins_too_much_loses_its_own() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let other = (0, 3);
        replies.enter(other, key(Protocol::Tcp, 1), Step::Open, now);
        for port in 0..5000 {
            let later = now + Duration::from_nanos(port.into());
            replies.enter(PEER, key(Protocol::Tcp, port), Step::Open, later);
        }
        assert_eq!(replies.all[&PEER].len(), MOST_OF_MEMBER);
        assert!(has(&replies, other, 1, now) && has(&replies, PEER, 4999, now));
        assert!(!has(&replies, PEER, 0, now));
        assert_eq!(replies.count, MOST_OF_MEMBER + 1);
    }

    #[test]
    fn many_members_leave_room_for_another() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        for number in 10..20 {
            for port in 0..1024 {
                replies.enter((0, number), key(Protocol::Tcp, port), Step::Open, now);
            }
        }
        replies.enter(PEER, key(Protocol::Tcp, 1), Step::Open, now);
        assert!(has(&replies, PEER, 1, now));
        let all: usize = replies.all.values().map(HashMap::len).sum();
        assert_eq!((replies.count, all), (MOST, MOST));
        // What is over makes room at once.
        replies.enter((0, 4), key(Protocol::Tcp, 1), Step::Open, now + TCP_SHORT);
        assert!(replies.count < MOST);
    }
}
