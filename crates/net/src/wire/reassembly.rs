//! Fragments from the guest, put together again within fixed bounds.
//!
//! A packet whose fragments overlap is dropped as a whole, for IPv4 too: only attacks overlap.
//! *Source:* RFC 791, section 3.2; RFC 5722; RFC 8200, section 4.5.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    build::IpHeader,
    ip::{Fragment, Packet},
};

/// Packets that are put together at a time.
const MAX_PACKETS: usize = 16;

/// Fragments of one packet: a packet of 64 KiB in fragments of the smallest MTU has 53.
const MAX_FRAGMENTS: usize = 64;

/// How long a packet waits for its last fragment.
const WAIT: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Partial {
    payload: Vec<u8>,
    /// Start and end of each fragment that came.
    parts: Vec<(usize, usize)>,
    /// Known when the last fragment has come.
    total: Option<usize>,
    deadline: Instant,
    /// A fragment was bad, so the others are dropped too until the deadline.
    spoiled: bool,
}

/// All packets of a guest that wait for fragments. At most 1 MiB.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partial: HashMap<Key, Partial>,
}

/// The result of one fragment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reassembled {
    /// Others are missing.
    Waiting,
    /// The whole IP packet, without any mark of fragments.
    Whole(Vec<u8>),
    /// The fragment, and what belongs to it, is dropped.
    Dropped,
}

impl Reassembly {
    /// Takes a fragment.
    pub(crate) fn add(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        now: Instant,
    ) -> Reassembled {
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            id: fragment.id,
        };
        if !self.partial.contains_key(&key) {
            self.expire(now);
            if self.partial.len() >= MAX_PACKETS {
                return Reassembled::Dropped;
            }
        }
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            payload: Vec::new(),
            parts: Vec::new(),
            total: None,
            deadline: now + WAIT,
            spoiled: false,
        });
        if partial.spoiled || !partial.add(packet, fragment) {
            partial.spoil();
            return Reassembled::Dropped;
        }
        if !partial.is_whole() {
            return Reassembled::Waiting;
        }
        let Some(partial) = self.partial.remove(&key) else {
            return Reassembled::Dropped;
        };
        let header = IpHeader {
            source: key.source,
            destination: key.destination,
            protocol: key.protocol,
            payload_bytes: partial.payload.len(),
        };
        let mut whole = vec![0; header.total_bytes()];
        header.write(&mut whole).copy_from_slice(&partial.payload);
        Reassembled::Whole(whole)
    }

    /// Forgets what has waited too long. Called only when there is no room, so that no timer is
    /// needed: what waits is bounded anyway.
    fn expire(&mut self, now: Instant) {
        if self.partial.len() >= MAX_PACKETS {
            self.partial.retain(|_, partial| partial.deadline > now);
        }
    }
}

impl Partial {
    /// Whether the fragment fits with the others.
    fn add(&mut self, packet: &Packet<'_>, fragment: Fragment) -> bool {
        let data = packet.payload;
        let (start, end) = (fragment.offset, fragment.offset + data.len());
        let aligned = !fragment.more || data.len().is_multiple_of(8);
        if data.is_empty()
            || !aligned
            || end > IpHeader::max_payload_bytes(packet.destination)
            || self.parts.len() >= MAX_FRAGMENTS
            || self
                .parts
                .iter()
                .any(|&(from, to)| start < to && from < end)
            || self
                .total
                .is_some_and(|total| end > total || !fragment.more)
        {
            return false;
        }
        if !fragment.more {
            if self.parts.iter().any(|&(_, to)| to > end) {
                return false;
            }
            self.total = Some(end);
        }
        if self.payload.len() < end {
            self.payload.resize(end, 0);
        }
        self.payload[start..end].copy_from_slice(data);
        self.parts.push((start, end));
        true
    }

    fn is_whole(&self) -> bool {
        let came: usize = self.parts.iter().map(|(start, end)| end - start).sum();
        self.total == Some(came)
    }

    fn spoil(&mut self) {
        self.spoiled = true;
        self.payload = Vec::new();
        self.parts = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Datagram, IpHeader, split, write_udp};

    fn datagram(source: &str, destination: &str, bytes: usize) -> Vec<u8> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let data: Vec<u8> = (0..=250u8).cycle().take(bytes).collect();
        let mut packet = vec![0; IpHeader::udp(source, destination, bytes).total_bytes()];
        write_udp(&mut packet, source, destination, &data);
        packet
    }

    fn parse(bytes: &[u8]) -> Packet<'_> {
        if bytes[0] >> 4 == 4 {
            Packet::parse_v4(bytes).unwrap()
        } else {
            Packet::parse_v6(bytes).unwrap()
        }
    }

    fn fragments(packet: &[u8], id: u32) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        split(packet, 1280, id, |part| all.push(part.to_vec()));
        assert!(all.iter().all(|part| part.len() <= 1280));
        all
    }

    fn add(reassembly: &mut Reassembly, bytes: &[u8], now: Instant) -> Reassembled {
        let packet = parse(bytes);
        reassembly.add(&packet, packet.fragment.unwrap(), now)
    }

    #[test]
    fn what_was_split_is_put_together_in_any_order() {
        let now = Instant::now();
        for (source, destination) in [("10.0.0.1:5", "10.0.0.2:6"), ("[fd00::1]:5", "[fd00::2]:6")]
        {
            let packet = datagram(source, destination, 40_000);
            for reverse in [false, true] {
                let mut parts = fragments(&packet, 7);
                if reverse {
                    parts.reverse();
                }
                let mut reassembly = Reassembly::default();
                let (last, others) = parts.split_last().unwrap();
                for part in others {
                    assert_eq!(add(&mut reassembly, part, now), Reassembled::Waiting);
                }
                let Reassembled::Whole(whole) = add(&mut reassembly, last, now) else {
                    panic!("The last fragment makes it whole");
                };
                let read = parse(&whole);
                assert_eq!(Datagram::parse(&read).unwrap().data.len(), 40_000);
                assert!(reassembly.partial.is_empty());
            }
        }
    }

    #[test]
    fn the_largest_datagram_is_put_together() {
        let now = Instant::now();
        let ends = [
            ("10.0.0.1:5", "10.0.0.2:6", 65_507),
            ("[fd00::1]:5", "[fd00::2]:6", 65_527),
        ];
        for (source, destination, bytes) in ends {
            let packet = datagram(source, destination, bytes);
            let mut reassembly = Reassembly::default();
            let parts = fragments(&packet, 7);
            let last = parts.iter().map(|part| add(&mut reassembly, part, now));
            let Some(Reassembled::Whole(whole)) = last.last() else {
                panic!("{bytes} bytes are not put together");
            };
            let read = parse(&whole);
            assert_eq!(Datagram::parse(&read).unwrap().data.len(), bytes);
        }
    }

    #[test]
    fn overlapping_fragments_drop_the_whole_packet() {
        let now = Instant::now();
        let packet = datagram("10.0.0.1:5", "10.0.0.2:6", 4000);
        let parts = fragments(&packet, 9);
        for twice in 0..parts.len() {
            let mut reassembly = Reassembly::default();
            let first = usize::from(twice == 0);
            add(&mut reassembly, &parts[first], now);
            add(&mut reassembly, &parts[twice], now);
            assert_eq!(
                add(&mut reassembly, &parts[twice], now),
                Reassembled::Dropped
            );
            for part in &parts {
                assert_eq!(add(&mut reassembly, part, now), Reassembled::Dropped);
            }
        }
    }

    #[test]
    fn a_flood_of_fragments_is_bounded_and_ends_by_time() {
        let mut now = Instant::now();
        let mut reassembly = Reassembly::default();
        let packet = datagram("10.0.0.1:5", "10.0.0.2:6", 4000);
        for id in 0..1000 {
            add(&mut reassembly, &fragments(&packet, id)[0], now);
        }
        assert_eq!(reassembly.partial.len(), MAX_PACKETS);
        now += WAIT;
        let parts = fragments(&packet, 2000);
        for part in &parts[..parts.len() - 1] {
            assert_eq!(add(&mut reassembly, part, now), Reassembled::Waiting);
        }
        assert!(matches!(
            add(&mut reassembly, parts.last().unwrap(), now),
            Reassembled::Whole(_)
        ));
    }

    #[test]
    fn a_fragment_past_the_largest_packet_is_dropped() {
        let now = Instant::now();
        let packet = datagram("10.0.0.1:5", "10.0.0.2:6", 4000);
        let parts = fragments(&packet, 9);
        let packet = parse(&parts[0]);
        let fragment = Fragment {
            id: 1,
            offset: 65_528,
            more: true,
        };
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.add(&packet, fragment, now), Reassembled::Dropped);
    }
}
