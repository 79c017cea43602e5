//! A guest whose segments are written by hand: what smoltcp would wait for without end.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod guest;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use guest::{Guest, config};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
        Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    },
};

const PORT: u16 = 40_000;

/// One end of a connection by hand.
struct Hand {
    guest: Guest,
    host: SocketAddr,
    /// The next number that the guest sends.
    sequence: TcpSeqNumber,
}

/// Number and length of the data of a segment.
type Data = (TcpSeqNumber, usize);

impl Hand {
    /// Connects, and returns the number of the first byte from the host.
    fn connect(host: SocketAddr) -> (Self, TcpSeqNumber) {
        let mut hand = Self {
            guest: Guest::new(),
            host,
            sequence: TcpSeqNumber(1000),
        };
        hand.send(TcpControl::Syn, None, u16::MAX);
        let frame = hand.guest.frame(|frame| segment(frame).is_some());
        let first = segment(&frame).unwrap().0 + 1;
        hand.sequence += 1;
        hand.send(TcpControl::None, Some(first), u16::MAX);
        (hand, first)
    }

    fn send(&mut self, control: TcpControl, ack: Option<TcpSeqNumber>, window: u16) {
        let own: Ipv4Addr = config().v4.unwrap().guest;
        let SocketAddr::V4(host) = self.host else {
            panic!("the test is of IPv4");
        };
        let tcp = TcpRepr {
            src_port: PORT,
            dst_port: host.port(),
            control,
            seq_number: self.sequence,
            ack_number: ack,
            window_len: window,
            window_scale: None,
            max_seg_size: (control == TcpControl::Syn).then_some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = Ipv4Repr {
            src_addr: own,
            dst_addr: *host.ip(),
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(guest::MAC),
            dst_addr: EthernetAddress(self.guest.config.gateway_mac),
            ethertype: EthernetProtocol::Ipv4,
        };
        let all = ChecksumCapabilities::default();
        let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + tcp.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &all);
        let (source, target) = (IpAddress::Ipv4(own), IpAddress::Ipv4(*host.ip()));
        let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
        tcp.emit(&mut segment, &source, &target, &all);
        self.guest.send_frame(&bytes);
    }

    /// The next segment with data.
    fn data(&mut self) -> Data {
        let frame = self
            .guest
            .frame(|frame| segment(frame).is_some_and(|(_, length)| length > 0));
        segment(&frame).unwrap()
    }
}

/// Number and length of the data of a frame, if it is a segment to the guest.
fn segment(frame: &[u8]) -> Option<Data> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    let segment = TcpPacket::new_checked(packet.payload()).ok()?;
    (segment.dst_port() == PORT).then(|| (segment.seq_number(), segment.payload().len()))
}

#[test]
fn segments_that_are_lost_while_the_window_closes_are_sent_again() {
    const TOTAL: usize = 20_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut hand, first) = Hand::connect(listener.local_addr().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&[7; TOTAL]).unwrap();
    let mut next = first;
    let end = first + TOTAL;
    let mut lost = None;
    while next < end {
        let (number, length) = hand.data();
        assert_eq!(number, next, "it was sent twice");
        next += length;
        lost.get_or_insert(next);
    }
    // The first segment has arrived. The others have not, and there is no room for a moment.
    let lost = lost.unwrap();
    hand.send(TcpControl::None, Some(lost), 0);
    hand.send(TcpControl::None, Some(lost), 60_000);
    // Each question is answered, as a kernel does it.
    loop {
        let (number, length) = hand.data();
        if number == lost && length > 1 {
            break;
        }
        hand.send(TcpControl::None, Some(lost), 60_000);
    }
    hand.send(TcpControl::None, Some(end), 60_000);
    hand.send(TcpControl::Rst, Some(end), 0);
    hand.guest.until_stats(|stats| stats.tcp_flows == 0);
}
