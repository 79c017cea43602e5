//! The other end of a machine's network interface: a gateway that answers ARP and pings and accepts
//! TCP connections, on which it then says nothing.
//!
//! Source: RFC 826 (ARP), RFC 791 and 792 (IPv4, ICMP), RFC 8200 and 4443 (IPv6, ICMPv6), RFC 9293 (TCP); QEMU
//! puts the length of each frame before it, 4 bytes, big-endian (net/stream.c).

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread,
};

use super::{PATIENCE, connect};

const ETHERNET_BYTES: usize = 14;
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The gateway. It works until the machine ends.
pub(crate) struct Peer {
    accepted: mpsc::Receiver<()>,
}

impl Peer {
    /// Connects to the interface of the machine whose files are in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        let stream = connect(&directory.join("net.sock"));
        let (sender, accepted) = mpsc::channel();
        thread::spawn(move || serve(stream, &sender));
        Self { accepted }
    }

    /// Waits for a new TCP connection.
    pub(crate) fn wait_for_connection(&self) {
        self.accepted.recv_timeout(PATIENCE).unwrap();
    }
}

/// The end of the machine ends the stream, and with it this.
fn serve(mut stream: UnixStream, accepted: &mpsc::Sender<()>) {
    loop {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        let Some(answer) = answer(&frame, accepted) else {
            continue;
        };
        let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
        if stream.write_all(&[&length, &answer[..]].concat()).is_err() {
            return;
        }
    }
}

fn answer(frame: &[u8], accepted: &mpsc::Sender<()>) -> Option<Vec<u8>> {
    let mut answer = frame.to_vec();
    let (ethernet, packet) = answer.split_at_mut(ETHERNET_BYTES);
    let (ours, theirs) = ethernet[..12].split_at_mut(6);
    ours.swap_with_slice(theirs);
    match ethernet[12..] {
        [0x08, 0x00] => {
            let protocol = packet[9];
            let addresses = &mut packet[12..20];
            let (source, destination) = addresses.split_at_mut(4);
            source.swap_with_slice(destination);
            let pseudo = [&packet[12..20], &[0, protocol]].concat();
            transport(protocol, &mut packet[20..], &pseudo, accepted)?;
        }
        [0x86, 0xdd] => {
            let protocol = packet[6];
            let (source, destination) = packet[8..40].split_at_mut(16);
            source.swap_with_slice(destination);
            let pseudo = [&packet[8..40], &[0, protocol]].concat();
            transport(protocol, &mut packet[40..], &pseudo, accepted)?;
        }
        [0x08, 0x06] => return resolution(frame),
        _ => return None,
    }
    Some(answer)
}

/// Answers a question of ARP for any address but the machine's own; RFC 826.
fn resolution(frame: &[u8]) -> Option<Vec<u8>> {
    let message = &frame[ETHERNET_BYTES..];
    let (sender, target) = (&message[8..18], &message[18..28]);
    if message[7] != 1 || sender[6..] == target[6..] {
        return None;
    }
    let ours = [&OWN_MAC, &target[6..]].concat();
    let ethernet = [&frame[6..12], &OWN_MAC, &frame[12..14]].concat();
    Some([&ethernet, &message[..7], &[2], &ours, sender].concat())
}

/// Makes an answer of a segment; `pseudo` is the pseudo-header without the length.
fn transport(
    protocol: u8,
    segment: &mut [u8],
    pseudo: &[u8],
    accepted: &mpsc::Sender<()>,
) -> Option<()> {
    match (protocol, segment[0]) {
        (ICMP, 8) => {
            segment[0] = 0;
            seal(segment, 2, &[]);
        }
        (ICMPV6, 128) => {
            segment[0] = 129;
            seal(segment, 2, pseudo);
        }
        (TCP, _) if segment[13] == SYN => {
            let sequence = u32::from_be_bytes(segment[4..8].try_into().unwrap());
            let (source, destination) = segment[..4].split_at_mut(2);
            source.swap_with_slice(destination);
            segment[4..8].copy_from_slice(&1000_u32.to_be_bytes());
            segment[8..12].copy_from_slice(&(sequence + 1).to_be_bytes());
            segment[13] = SYN | ACK;
            seal(segment, 16, pseudo);
        }
        (TCP, _) => {
            // The machine's acknowledgement of ours completes the connection.
            if segment[13] == ACK && segment[8..12] == 1001_u32.to_be_bytes() {
                let _ = accepted.send(());
            }
            return None;
        }
        _ => return None,
    }
    Some(())
}

/// Sets the checksum, which is at `at`; RFC 1071.
fn seal(segment: &mut [u8], at: usize, pseudo: &[u8]) {
    segment[at..at + 2].fill(0);
    let length = u32::try_from(segment.len()).unwrap();
    let covered = if pseudo.is_empty() { 0 } else { length };
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2);
        pairs
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum()
    };
    let mut sum = words(segment) + words(pseudo) + covered;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}
