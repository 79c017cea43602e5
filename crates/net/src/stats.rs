//! Counters of one stack, which any thread reads at any time, and the list of its flows.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::policy::Protocol;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counters. Only the stack's thread writes.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// All counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Reads all of them; each is right, and they may be a packet apart.
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Frames from the guest.
    rx_frames,
    /// Bytes of them.
    rx_bytes,
    /// Frames to the guest.
    tx_frames,
    /// Bytes of them.
    tx_bytes,
    /// Frames and packets that could not be read: wrong lengths, checksums or types.
    malformed,
    /// Packets that are well formed and that the stack does not serve.
    ignored,
    /// Frames with a source MAC or IP address that is not the guest's.
    spoofed,
    /// Fragments that were dropped: they overlap, or too many packets wait for theirs.
    fragments_dropped,
    /// Frames to the guest that were dropped because it does not read.
    tx_dropped,
    /// Flows that exist now: TCP.
    tcp_flows,
    /// Flows that exist now: UDP.
    udp_flows,
    /// Flows that exist now: ICMP echo.
    icmp_flows,
    /// TCP flows so far.
    tcp_opened,
    /// UDP flows so far.
    udp_opened,
    /// Flows that were refused because there are as many as the limit allows.
    flows_refused,
    /// Connects on the host that failed.
    connects_failed,
    /// Packets, names and connections that the policy refused.
    denied,
    /// Packets between members of a named network that were dropped because the other does not read.
    peers_dropped,
    /// DNS queries from the guest.
    dns_queries,
    /// DNS queries that failed because no resolver answered.
    dns_failed,
    /// Events that were dropped because their reader is slow.
    events_dropped,
    /// Frames that the capture left out because its file is slow.
    capture_dropped,
    /// Bytes of TCP data from the guest that were written to host sockets.
    tcp_up_bytes,
    /// Bytes of TCP data from host sockets that were given to the guest's connection.
    tcp_down_bytes,
    /// Connections and UDP peers of published ports that exist now.
    published_flows,
    /// One more than the milliseconds from the start of the stack to the last beginning or end of
    /// one of these; 0 before the first.
    published_changed_ms,
    /// Times that the stack's thread woke up.
    wake_ups,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowInfo {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it; of a connection to a published port its real peer.
    pub remote: SocketAddr,
    /// The name of the other end: the one that the guest has said in TLS or HTTP, if that was
    /// checked, or one that DNS has given it the address for.
    pub name: Option<String>,
    /// Whether it came to a published port.
    pub is_inbound: bool,
    /// How long it has existed.
    pub age: Duration,
    /// Whether both ends are connected; for UDP, whether the other end has answered.
    pub established: bool,
    /// Bytes of data from the guest.
    pub up_bytes: u64,
    /// Bytes of data to the guest.
    pub down_bytes: u64,
}

/// One number. Its only writer needs no atomic addition. A reader of two reads what was written
/// before the first of them.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0
            .store(self.get().wrapping_add(count), Ordering::Release);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn less_one(&self) {
        self.0
            .store(self.get().saturating_sub(1), Ordering::Release);
    }

    pub(crate) fn set(&self, count: usize) {
        self.0
            .store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Release);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A length as a counter takes it.
pub(crate) fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_has_what_was_counted() {
        let counters = Counters::default();
        counters.rx_frames.one();
        counters.rx_bytes.add(60);
        counters.tcp_flows.set(3);
        let stats = counters.read();
        assert_eq!(
            (stats.rx_frames, stats.rx_bytes, stats.tcp_flows),
            (1, 60, 3)
        );
        assert_eq!(stats.denied, 0);
    }
}
