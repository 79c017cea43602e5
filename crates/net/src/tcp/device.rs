//! smoltcp's view of the link: at most one packet in, and the queue to the guest.

use std::time::Instant;

use smoltcp::{
    phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium},
    time::Instant as SmolInstant,
};

use crate::context::Egress;

/// The link during one call of smoltcp.
#[derive(Debug)]
pub(super) struct Port<'a> {
    packet: Option<&'a [u8]>,
    egress: &'a mut Egress,
    now: Instant,
    mtu: usize,
}

impl<'a> Port<'a> {
    /// A link on which `packet` has arrived.
    pub(super) fn receiving(
        packet: &'a [u8],
        egress: &'a mut Egress,
        now: Instant,
        mtu: usize,
    ) -> Self {
        Self {
            packet: Some(packet),
            egress,
            now,
            mtu,
        }
    }

    /// A link to send on.
    pub(super) fn sending(egress: &'a mut Egress, now: Instant, mtu: usize) -> Self {
        Self {
            packet: None,
            egress,
            now,
            mtu,
        }
    }
}

/// The packet that arrived.
#[derive(Debug)]
pub(super) struct Received<'a>(&'a [u8]);

/// The right to send one packet.
#[derive(Debug)]
pub(super) struct Sender<'a>(&'a mut Egress);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        self.0.packet(len, fill)
    }
}

impl phy::Device for Port<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sender<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: SmolInstant) -> Option<(Received<'_>, Sender<'_>)> {
        let packet = self.packet.take()?;
        Some((Received(packet), Sender(self.egress)))
    }

    fn transmit(&mut self, _now: SmolInstant) -> Option<Sender<'_>> {
        self.egress
            .has_room(self.now)
            .then_some(Sender(self.egress))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = checksums();
        capabilities
    }
}

/// Frames come over a local socket that damages nothing, and a guest that sends a wrong checksum
/// harms its own flow only. So TCP's checksum is written and not read, which saves one pass over
/// all data from the guest. The checksum of the IP header is checked before.
fn checksums() -> ChecksumCapabilities {
    let mut checksums = ChecksumCapabilities::ignored();
    checksums.ipv4 = phy::Checksum::Tx;
    checksums.tcp = phy::Checksum::Tx;
    checksums
}
