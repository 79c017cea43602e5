//! Packets to the guest that are larger than the link's MTU, cut into fragments.
//!
//! Only UDP and ICMP need it: TCP fits its segments. *Source:* RFC 791, section 3.2; RFC 8200,
//! section 4.5.

use super::{be16, build::checksum, build::sum, protocol};

/// Cuts `packet`, an IP packet without options or extension headers, into packets of at most
/// `mtu` bytes. `id` tells them from the fragments of other packets.
pub(crate) fn split(packet: &[u8], mtu: usize, id: u32, mut emit: impl FnMut(&[u8])) {
    if packet.len() <= mtu {
        emit(packet);
        return;
    }
    let v4 = packet[0] >> 4 == 4;
    let (header_bytes, extra) = if v4 { (20, 0) } else { (40, 8) };
    let (header, payload) = packet.split_at(header_bytes);
    // All but the last fragment carry a multiple of eight bytes.
    let step = (mtu - header_bytes - extra) & !7;
    let mut buffer = Vec::with_capacity(mtu);
    for (number, part) in payload.chunks(step).enumerate() {
        let offset = number * step;
        let more = offset + part.len() < payload.len();
        buffer.clear();
        buffer.extend(header);
        if v4 {
            v4_header(&mut buffer, part.len(), offset, more, id);
        } else {
            v6_headers(&mut buffer, part.len(), offset, more, id);
        }
        buffer.extend(part);
        emit(&buffer);
    }
}

fn small(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn v4_header(header: &mut [u8], part: usize, offset: usize, more: bool, id: u32) {
    let place = small(offset / 8) | if more { 0x2000 } else { 0 };
    header[2..4].copy_from_slice(&small(20 + part).to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
    header[6..8].copy_from_slice(&place.to_be_bytes());
    header[10..12].fill(0);
    let check = checksum(sum(header));
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

fn v6_headers(headers: &mut Vec<u8>, part: usize, offset: usize, more: bool, id: u32) {
    let next = headers[6];
    headers[4..6].copy_from_slice(&small(8 + part).to_be_bytes());
    headers[6] = protocol::FRAGMENT;
    let place = small(offset) | u16::from(more);
    headers.extend([next, 0]);
    headers.extend(place.to_be_bytes());
    headers.extend(id.to_be_bytes());
    debug_assert_eq!(be16(headers, 42), place);
}
