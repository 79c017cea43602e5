//! A guest without a machine: smoltcp at the other end of a frame channel, or raw frames.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod outside;

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, mpsc::Receiver},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cofferdam_jail::{ThreadRights, confine_thread};
use cofferdam_net::{
    Config, Confine, End, Event, Events, Fill, FrameIo, FrameStream, Handle, Input, Policy,
    Profile, Result, Rule, Stack,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::{
    iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet},
    phy,
    socket::{tcp, udp},
    time::Instant as SmolInstant,
    wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint},
};

pub(crate) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x15];

/// No step of a test takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stack on its thread, and its guest.
pub(crate) struct Guest {
    pub(crate) config: Config,
    pub(crate) handle: Handle,
    pub(crate) events: Receiver<Event>,
    pub(crate) link: Link,
    pub(crate) sockets: SocketSet<'static>,
    interface: Interface,
    start: Instant,
    thread: Option<JoinHandle<Result<End>>>,
    next_port: u16,
}

/// The guest's network device.
pub(crate) struct Link {
    pub(crate) io: FrameStream,
    mtu: usize,
    /// Loses one frame in 300 each way, and moves as many behind the next one.
    pub(crate) lossy: Option<Random>,
    held: Option<Vec<u8>>,
    /// Frames of the stack that were looked at and are smoltcp's.
    pub(crate) pending: VecDeque<Vec<u8>>,
    input: Input,
    read: VecDeque<Vec<u8>>,
}

pub(crate) fn rules(rules: &[&str]) -> Vec<Rule> {
    rules.iter().map(|rule| rule.parse().unwrap()).collect()
}

pub(crate) fn config() -> Config {
    let mut config = Config::new(MAC);
    config.confine = Some(Arc::new(Rights));
    config
}

/// The rights that the supervisor leaves to the threads of a stack; sockets may have their names
/// where tests make files.
#[derive(Debug)]
pub(crate) struct Rights;

impl Confine for Rights {
    fn stack(&self) -> io::Result<()> {
        let read = Path::new(env!("CARGO_MANIFEST_DIR"));
        let names = &std::env::temp_dir();
        confine_thread(ThreadRights::NewSockets { read, names })
    }

    fn capture(&self) -> io::Result<()> {
        confine_thread(ThreadRights::OpenFiles)
    }
}

impl Guest {
    /// A guest whose policy is `public` and `allow` for the loopback address.
    pub(crate) fn new() -> Self {
        Self::with(config(), &["allow 127.0.0.1", "allow ::1"])
    }

    pub(crate) fn with(config: Config, allowed: &[&str]) -> Self {
        let policy = Policy::new(Profile::Public, rules(allowed));
        Self::with_policy(config, policy)
    }

    pub(crate) fn with_policy(config: Config, policy: Policy) -> Self {
        let (ours, theirs) = FrameStream::pair().unwrap();
        let (events, receiver) = Events::channel();
        let stack = Stack::new(config.clone(), Box::new(theirs), policy, events).unwrap();
        let handle = stack.handle();
        let thread = stack.spawn().unwrap();
        let mut link = Link {
            io: ours,
            mtu: config.mtu,
            lossy: None,
            held: None,
            pending: VecDeque::new(),
            input: Input::default(),
            read: VecDeque::new(),
        };
        let mac = HardwareAddress::Ethernet(EthernetAddress(MAC));
        let mut interface_config = InterfaceConfig::new(mac);
        interface_config.random_seed = 7;
        let mut interface = Interface::new(interface_config, &mut link, SmolInstant::ZERO);
        let (v4, v6) = (config.v4.unwrap(), config.v6.unwrap());
        interface.update_ip_addrs(|addresses| {
            let cidr = |address, bits| IpCidr::new(IpAddr::into(address), bits);
            // smoltcp has room for two, so a member has its addresses of the network alone.
            let (v4, v6) = match config.networks.first() {
                None => (v4.guest, v6.guest),
                Some(own) => (own.v4_of(own.number), own.v6_of(own.number)),
            };
            // The gateway of a member's link and its network are both below 198.18.0.0/15.
            let bits = if config.networks.is_empty() { 24 } else { 15 };
            addresses.push(cidr(v4.into(), bits)).unwrap();
            addresses.push(cidr(v6.into(), 64)).unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(v4.gateway).unwrap();
        routes.add_default_ipv6_route(v6.gateway).unwrap();
        Self {
            config,
            handle,
            events: receiver,
            link,
            sockets: SocketSet::new(Vec::new()),
            interface,
            start: Instant::now(),
            thread: Some(thread),
            next_port: 40_000,
        }
    }

    /// Takes another IPv4 address.
    pub(crate) fn readdress(&mut self, address: std::net::Ipv4Addr) {
        self.config.v4.as_mut().unwrap().guest = address;
        self.interface.update_ip_addrs(|addresses| {
            addresses[0] = IpCidr::new(address.into(), 24);
        });
    }

    fn now(&self) -> SmolInstant {
        let since = self.start.elapsed().as_micros();
        SmolInstant::from_micros(i64::try_from(since).unwrap())
    }

    /// Handles everything that has come, and sends everything that is ready.
    pub(crate) fn work(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        self.link.io.flush().unwrap();
    }

    /// Waits for a frame or for smoltcp's timer, at most for `most`.
    pub(crate) fn wait(&mut self, most: Duration) {
        let now = self.now();
        let timer = self.interface.poll_delay(now, &self.sockets);
        let wait = timer.map_or(most, |timer| {
            most.min(Duration::from_micros(timer.total_micros()))
        });
        let mut flags = PollFlags::IN;
        if self.link.io.queued() > 0 {
            flags |= PollFlags::OUT;
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap(),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.link, flags)];
        poll(&mut fds, Some(&timeout)).unwrap();
    }

    /// Works until `done` returns a value.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.work();
            if let Some(value) = done(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "{:?}", self.handle.stats());
            self.work();
            // Other threads' effects that send no frame are seen after this time.
            self.wait(Duration::from_millis(5));
        }
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A TCP socket with buffers of `bytes`.
    pub(crate) fn tcp_socket(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// Sends a SYN.
    pub(crate) fn begin_connect(&mut self, remote: SocketAddr, bytes: usize) -> SocketHandle {
        let handle = self.tcp_socket(bytes);
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        let port = self.next_port;
        let member = self.config.networks.first();
        let local = match member {
            Some(member) => member.own_like(remote.ip()),
            None => self.config.guest_like(remote.ip()).unwrap(),
        };
        let local = IpEndpoint::new(local.into(), port);
        let remote = IpEndpoint::new(remote.ip().into(), remote.port());
        let socket: &mut tcp::Socket<'_> = self.sockets.get_mut(handle);
        socket
            .connect(self.interface.context(), remote, local)
            .unwrap();
        handle
    }

    /// Connects, and waits until that has succeeded.
    #[track_caller]
    pub(crate) fn connect(&mut self, remote: SocketAddr) -> SocketHandle {
        let handle = self.begin_connect(remote, 256 << 10);
        assert!(self.connected(handle), "refused");
        handle
    }

    /// Waits until a connect has succeeded or failed.
    #[track_caller]
    pub(crate) fn connected(&mut self, handle: SocketHandle) -> bool {
        self.until(|guest| match guest.tcp(handle).state() {
            tcp::State::SynSent => None,
            tcp::State::Closed => Some(false),
            _ => Some(true),
        })
    }

    /// A UDP socket of the guest, bound to `port` of every address.
    pub(crate) fn udp_socket(&mut self, port: u16) -> SocketHandle {
        self.bind_udp(port.into())
    }

    /// A UDP socket of the guest, bound to `port` of one address.
    pub(crate) fn udp_socket_at(&mut self, address: IpAddr, port: u16) -> SocketHandle {
        self.bind_udp(IpEndpoint::new(address.into(), port).into())
    }

    fn bind_udp(&mut self, endpoint: smoltcp::wire::IpListenEndpoint) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 256 << 10]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(endpoint).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn send_to(&mut self, handle: SocketHandle, remote: SocketAddr, data: &[u8]) {
        let remote = IpEndpoint::new(remote.ip().into(), remote.port());
        self.udp(handle).send_slice(data, remote).unwrap();
    }

    #[track_caller]
    pub(crate) fn receive_from(&mut self, handle: SocketHandle) -> (Vec<u8>, SocketAddr) {
        self.until(|guest| {
            let (data, meta) = guest.udp(handle).recv().ok()?;
            let source = SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port);
            Some((data.to_vec(), source))
        })
    }

    /// Sends one frame as it is.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) {
        while self.link.io.queue(frame.len()).is_none_or(|room| {
            room.copy_from_slice(frame);
            false
        }) {
            self.link.io.flush().unwrap();
            self.wait(Duration::from_millis(5));
            while self.link.next_frame().is_some() {}
        }
    }

    /// The next frame of the stack that `wanted` accepts; others are dropped.
    #[track_caller]
    pub(crate) fn frame(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.link.io.flush().unwrap();
            while let Some(frame) = self.link.next_frame() {
                if wanted(&frame) {
                    return frame;
                }
            }
            assert!(Instant::now() < deadline, "no such frame");
            self.wait(Duration::from_millis(5));
        }
    }

    /// The next ICMP error for the guest, over IPv4.
    #[track_caller]
    pub(crate) fn icmp_error(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The ARP exchange is smoltcp's, so it goes on working until the error comes.
            self.wait(Duration::from_millis(5));
            let mut others = Vec::new();
            while let Some(frame) = self.link.next_frame() {
                if frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 3 {
                    return frame;
                }
                others.push(frame);
            }
            self.link.pending.extend(others);
            self.work();
            assert!(Instant::now() < deadline, "no ICMP error");
        }
    }

    /// Waits until a condition on the counters holds.
    #[track_caller]
    pub(crate) fn until_stats(&mut self, holds: impl Fn(&cofferdam_net::Stats) -> bool) {
        self.until(|guest| holds(&guest.handle.stats()).then_some(()));
    }

    #[track_caller]
    pub(crate) fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        self.until(|guest| guest.events.try_iter().find(|event| wanted(event)))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.handle.stop();
        let result = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            // A panic of the stack's thread is a failure of every test.
            result.unwrap().unwrap().unwrap();
        }
    }
}

impl Link {
    pub(crate) fn io_flush(&mut self) {
        while !self.io.flush().unwrap() {
            std::thread::yield_now();
        }
    }

    /// The next frame of the stack.
    pub(crate) fn next_frame(&mut self) -> Option<Vec<u8>> {
        while self.read.is_empty() {
            if self.io.fill(&mut self.input).unwrap() != Fill::Data {
                return None;
            }
            self.read.extend(self.input.frames().map(<[u8]>::to_vec));
        }
        self.read.pop_front()
    }

    fn loses(&mut self) -> bool {
        let random = self.lossy.as_mut();
        random.is_some_and(|random| random.below(300) == 0)
    }

    /// The next frame of the stack, by way of the losses.
    fn next_lossy(&mut self) -> Option<Vec<u8>> {
        loop {
            let frame = self.pending.pop_front().or_else(|| self.next_frame());
            let (Some(random), Some(frame)) = (&mut self.lossy, &frame) else {
                return frame.or_else(|| self.held.take());
            };
            match random.below(300) {
                0 => {}
                1 if self.held.is_none() => self.held = Some(frame.clone()),
                _ => {
                    // The frame that was held back comes next.
                    let held = self.held.take();
                    self.pending.extend(held);
                    return Some(frame.clone());
                }
            }
        }
    }
}

pub(crate) struct Received(Vec<u8>);

/// The right to send a frame, and whether it is lost on the way.
pub(crate) struct Sender<'a>(&'a mut FrameStream, bool);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let room = if self.1 { None } else { self.0.queue(len) };
        match room {
            Some(room) => fill(room),
            None => fill(&mut vec![0; len]),
        }
    }
}

impl phy::Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: SmolInstant) -> Option<(Received, Sender<'_>)> {
        let frame = self.next_lossy()?;
        let lost = self.loses();
        Some((Received(frame), Sender(&mut self.io, lost)))
    }

    fn transmit(&mut self, _now: SmolInstant) -> Option<Sender<'_>> {
        if self.io.queued() > 1 << 20 {
            self.io.flush().unwrap();
        }
        let lost = self.loses();
        (self.io.queued() <= 1 << 20).then_some(Sender(&mut self.io, lost))
    }

    fn capabilities(&self) -> phy::DeviceCapabilities {
        let mut capabilities = phy::DeviceCapabilities::default();
        capabilities.medium = phy::Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

impl std::os::fd::AsFd for Link {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.io.fd()
    }
}

/// Numbers that look random and are the same in each run. *Source:* Vigna, SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::try_from(self.next() & 0xff).unwrap()
    }
}

/// The bytes of a stream at `offset`, so that a lost, doubled or moved byte is seen.
pub(crate) fn pattern(offset: u64, room: &mut [u8]) {
    // The table repeats after a prime number of bytes, so no block of a power of two looks alike.
    let table: Vec<u8> = (0..4093u32).map(|i| (i * 31 % 251) as u8).collect();
    let mut at = usize::try_from(offset % 4093).unwrap();
    let mut filled = 0;
    while filled < room.len() {
        let count = (room.len() - filled).min(table.len() - at);
        room[filled..filled + count].copy_from_slice(&table[at..at + count]);
        filled += count;
        at = (at + count) % table.len();
    }
}

#[track_caller]
pub(crate) fn check_pattern(offset: u64, data: &[u8]) {
    let mut expected = vec![0; data.len()];
    pattern(offset, &mut expected);
    assert!(data == expected, "wrong bytes after {offset}");
}
