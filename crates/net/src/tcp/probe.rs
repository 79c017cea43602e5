//! Helps smoltcp 0.14 out of two states in which it waits for ever with data for the guest.
//!
//! - A retransmission falls due while the guest's window is closed: `Socket::dispatch` stops its only
//!   timer, and the guest's word that there is room again may be lost.
//! - A window closes while segments are on the way: in `Socket::process` the timer of the window takes
//!   the place of the one that would send lost segments again, and ends with the window.
//!
//! In both smoltcp has nothing to do and data to send. Then a keep-alive asks the guest, whose answers
//! have its window and what it has. If they bring no progress, smoltcp gets an answer so often that it
//! sends the first missing segment again.

use std::time::{Duration, Instant};

use smoltcp::{
    iface::{Interface, SocketSet},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::TcpPacket,
};

use super::{device::Port, flow::Link};
use crate::{
    context::Context,
    wire::{Packet, Segment},
};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Answers without progress before smoltcp gets one again. The first may still open the window.
const ANSWERS: u8 = 2;

/// Equal acknowledgements after which a segment is sent again, with the one that begins the count;
/// RFC 5681 section 3.2.
const EQUAL: usize = 4;

/// Has smoltcp ask the guest if it waits for ever; returns when to look at it again.
pub(super) fn ask(socket: &mut tcp::Socket<'_>, now: Instant) -> Option<Instant> {
    let waits = socket.send_queue() > 0 && socket.state() != tcp::State::Closed;
    waits.then(|| {
        socket.set_keep_alive(Some(INTERVAL.into()));
        now + INTERVAL
    })
}

/// Looks at a segment of a guest that was asked, which smoltcp has got already. `queue` is the count of
/// bytes that the guest had not acknowledged before it.
pub(super) fn answered(
    cx: &mut Context,
    (interface, now): (&mut Interface, SmolInstant),
    link: &mut Link,
    (packet, segment): (&Packet<'_>, &Segment),
    queue: usize,
) {
    if link.socket().send_queue() != queue {
        link.socket().set_keep_alive(None);
        link.answers = 0;
        return;
    }
    if !segment.is_acknowledgement_alone() {
        return;
    }
    link.answers = link.answers.saturating_add(1);
    if link.answers < ANSWERS {
        return;
    }
    // A number of equal ones counts, so another window before them begins the count anew.
    let mut other = packet.bytes.to_vec();
    let header = other.len() - packet.payload.len();
    let mut parsed = TcpPacket::new_unchecked(&mut other[header..]);
    let window = parsed.window_len();
    parsed.set_window_len(window.checked_sub(1).unwrap_or(1));
    let mut give = |bytes: &[u8], sockets: &mut SocketSet<'static>| {
        let mut port = Port::receiving(bytes, &mut cx.egress, cx.now, cx.config.mtu);
        interface.poll_ingress_single(now, &mut port, sockets);
    };
    give(&other, &mut link.sockets);
    for _ in 0..EQUAL {
        give(packet.bytes, &mut link.sockets);
    }
}
