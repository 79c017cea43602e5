//! The way to the guest: Ethernet headers, fragments, the rate limit, the capture.

use std::{io, sync::Arc, time::Instant};

use crate::{
    capture::Capture,
    config::Config,
    frame::FrameIo,
    limit::Bucket,
    stats::{Counters, bytes},
    wire::{ETHERNET_BYTES, EtherType, split, write_ethernet},
};

/// Bytes in the queue above which TCP waits with data. Answers and datagrams still go in, as far
/// as the queue of the [`FrameIo`] has room.
const FULL_BYTES: usize = 512 << 10;

/// Bytes in the queue at which it is written at once: more would only leave the processor's cache.
const WRITE_BYTES: usize = 192 << 10;

/// The queue of frames to the guest.
pub(crate) struct Egress {
    pub(crate) io: Box<dyn FrameIo>,
    guest_mac: [u8; 6],
    gateway_mac: [u8; 6],
    mtu: usize,
    pub(crate) rate: Bucket,
    pub(crate) capture: Option<Capture>,
    counters: Arc<Counters>,
    /// For frames that the full queue does not take.
    scratch: Vec<u8>,
    /// Identification of the next packet that is cut into fragments.
    next_id: u32,
    failed: Option<io::Error>,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress")
            .field("queued", &self.io.queued())
            .finish_non_exhaustive()
    }
}

impl Egress {
    pub(crate) fn new(
        io: Box<dyn FrameIo>,
        config: &Config,
        counters: Arc<Counters>,
        now: Instant,
    ) -> Self {
        Self {
            io,
            guest_mac: config.guest_mac,
            gateway_mac: config.gateway_mac,
            mtu: config.mtu,
            rate: Bucket::new(config.rate.down, now),
            capture: None,
            counters,
            scratch: Vec::new(),
            next_id: 0,
            failed: None,
        }
    }

    /// Sends to the guest of another configuration from now on.
    pub(crate) fn configure(&mut self, config: &Config, now: Instant) {
        self.guest_mac = config.guest_mac;
        self.gateway_mac = config.gateway_mac;
        self.mtu = config.mtu;
        self.rate = Bucket::new(config.rate.down, now);
    }

    /// Whether TCP may put more data in.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        self.io.queued() < FULL_BYTES && self.rate.is_open(now)
    }

    /// Queues an IP packet of `len` bytes that `fill` writes. If the queue is full, the packet is
    /// written and dropped, with a count.
    pub(crate) fn packet<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.frame(len, None, fill)
    }

    /// Queues a finished IP packet, in fragments if it is larger than the link's MTU.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.next_id = self.next_id.wrapping_add(1);
        let (mtu, id) = (self.mtu, self.next_id);
        split(packet, mtu, id, |part| {
            self.packet(part.len(), |room| room.copy_from_slice(part));
        });
    }

    /// Queues the payload of an ARP frame.
    pub(crate) fn send_arp(&mut self, payload: &[u8]) {
        self.frame(payload.len(), Some(EtherType::Arp), |room| {
            room.copy_from_slice(payload);
        });
    }

    fn frame<R>(
        &mut self,
        len: usize,
        kind: Option<EtherType>,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let total = ETHERNET_BYTES + len;
        if self.io.queued() > WRITE_BYTES {
            self.write();
        }
        let Some(frame) = self.io.queue(total) else {
            self.counters.tx_dropped.one();
            self.scratch.resize(len, 0);
            return fill(&mut self.scratch);
        };
        let result = fill(&mut frame[ETHERNET_BYTES..]);
        let kind = kind.unwrap_or(if frame[ETHERNET_BYTES] >> 4 == 4 {
            EtherType::Ipv4
        } else {
            EtherType::Ipv6
        });
        write_ethernet(frame, self.guest_mac, self.gateway_mac, kind);
        self.rate.take(total);
        self.counters.tx_frames.one();
        self.counters.tx_bytes.add(bytes(total));
        if let Some(capture) = &self.capture
            && !capture.frame(frame)
        {
            self.counters.capture_dropped.one();
        }
        result
    }

    fn write(&mut self) {
        if let Err(error) = self.io.flush() {
            self.failed = Some(error);
        }
    }

    /// Writes the queued frames. Returns whether all of it is written.
    ///
    /// # Errors
    /// The channel's.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.io.flush(),
        }
    }
}
