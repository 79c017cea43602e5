//! The guest of the backend contract: an init that speaks `cofferdam_backend::contract::operation`.
//!
//! Built by itself with `rustc`, static, and put into an initramfs by `initramfs.rs`; it is no part
//! of the workspace and uses the standard library alone. A failure ends it, and with PID 1 the
//! machine, whose console then says why.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// `O_DIRECT` on x86-64: what is read comes from the disk, not from the guest's memory.
const O_DIRECT: i32 = 0o40000;
/// `contract::{BLOCK_BYTES, ROUND_BLOCKS, DISAGREE}`.
const BLOCK_BYTES: u64 = 128 << 10;
const ROUND_BLOCKS: u64 = 16;
const DISAGREE: u64 = u64::MAX;
type Page = [u64; 512];

#[repr(align(4096))]
struct Sector([u8; 4096]);

struct Disk(File);

impl Disk {
    fn read(&self, block: u64) -> io::Result<u64> {
        let mut sector = Sector([0; 4096]);
        self.0.read_exact_at(&mut sector.0, block * BLOCK_BYTES)?;
        let words: Vec<u64> = sector.0.chunks(8).map(word).collect();
        // A write of 4096 bytes is done or not, in every file that may be behind the disk.
        if words.iter().any(|word| *word != words[0]) {
            return Err(io::Error::other(format!("block {block} is torn")));
        }
        Ok(words[0])
    }

    fn write(&self, block: u64, word: u64) -> io::Result<()> {
        let mut sector = Sector([0; 4096]);
        for bytes in sector.0.chunks_mut(8) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.0.write_all_at(&sector.0, block * BLOCK_BYTES)?;
        self.0.sync_data()
    }

    /// Round after round; see `contract::Guest::begin_rounds`.
    fn write_rounds(&self, rounds: &AtomicU64) -> io::Result<()> {
        loop {
            let over = rounds.load(Ordering::SeqCst);
            let round = over + 1;
            let (block, before) = (round % ROUND_BLOCKS, over % ROUND_BLOCKS);
            let (found, last) = (self.read(block)?, self.read(before)?);
            if (found, last) != (round.saturating_sub(ROUND_BLOCKS), over) {
                println!("round {round}: block {block} is {found}, block {before} is {last}");
                rounds.store(DISAGREE, Ordering::SeqCst);
                return Ok(());
            }
            self.write(block, round)?;
            rounds.store(round, Ordering::SeqCst);
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// What the page is full of: zeroes by the seed 0 and no other.
fn filling(page: u64, seed: u64) -> u64 {
    if seed == 0 {
        return 0;
    }
    let word =
        (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (word ^ (word >> 29)) | 1
}

/// The first device whose name begins with `prefix` and that can be written to.
fn device(prefix: &str, flags: i32) -> io::Result<Option<File>> {
    let mut names: Vec<_> = fs::read_dir("/dev")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    let open = |name: String| {
        let path = format!("/dev/{name}");
        File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .ok()
    };
    Ok(names.into_iter().find_map(open))
}

/// The network interface, which is up from the start.
struct Network(File);

const INTERFACE: &str = "eth0";

impl Network {
    fn open() -> io::Result<Option<Self>> {
        let is_there = fs::exists(format!("/sys/class/net/{INTERFACE}"))?;
        is_there.then(|| sys::packet_socket().map(Self)).transpose()
    }

    /// Sends the next frame back with sender and receiver exchanged; answers its length. The socket
    /// has frames of the contract's type only.
    fn echo(&mut self) -> io::Result<u64> {
        let mut frame = vec![0; 1 << 16];
        let length = self.0.read(&mut frame)?;
        let frame = &mut frame[..length];
        let (receiver, sender) = frame[..12].split_at_mut(6);
        receiver.swap_with_slice(sender);
        self.0.write_all(frame)?;
        Ok(length as u64)
    }

    fn mac(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/sys/class/net/{INTERFACE}/address"))?;
        let mut bytes = [0; 8];
        for (byte, digits) in bytes.iter_mut().zip(text.trim().split(':')) {
            *byte = u8::from_str_radix(digits, 16).map_err(io::Error::other)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn set_mac(&self, mac: u64) -> io::Result<()> {
        sys::set_mac(&self.0, mac.to_le_bytes())
    }
}

struct Program {
    counter: u64,
    area: Vec<Page>,
    disk: Option<Arc<Disk>>,
    rounds: Arc<AtomicU64>,
    network: Option<Network>,
}

impl Program {
    fn network(&mut self) -> io::Result<&mut Network> {
        self.network
            .as_mut()
            .ok_or_else(|| io::Error::other("no network"))
    }

    fn disk(&self) -> io::Result<&Arc<Disk>> {
        self.disk
            .as_ref()
            .ok_or_else(|| io::Error::other("no disk"))
    }

    fn fill(&mut self, pages: u64, seed: u64) {
        let pages = usize::try_from(pages).expect("64 bits");
        if pages < self.area.len() {
            // A new area, so that the old one is unmapped whole.
            self.area = Vec::new();
        }
        self.area.resize(pages, [0; 512]);
        for (number, page) in (0..).zip(&mut self.area) {
            page.fill(filling(number, seed));
        }
    }

    fn first_wrong(&self, pages: u64, seed: u64) -> u64 {
        let right = |number: u64| {
            let page = self.area.get(usize::try_from(number).expect("64 bits"));
            page.is_some_and(|page| page.iter().all(|word| *word == filling(number, seed)))
        };
        (0..pages).find(|number| !right(*number)).unwrap_or(pages)
    }

    fn answer(&mut self, operation: u8, a: u64, b: u64) -> io::Result<u64> {
        match operation {
            0 => {
                self.counter += 1;
                Ok(self.counter)
            }
            1 => {
                self.fill(a, b);
                Ok(0)
            }
            2 => Ok(self.first_wrong(a, b)),
            3 => self.disk()?.write(a, b).map(|()| 0),
            4 => self.disk()?.read(a),
            5 => {
                let (disk, rounds) = (Arc::clone(self.disk()?), Arc::clone(&self.rounds));
                thread::spawn(move || disk.write_rounds(&rounds).expect("rounds"));
                Ok(0)
            }
            6 => Ok(self.rounds.load(Ordering::SeqCst)),
            7 => self.network()?.echo(),
            8 => self.network()?.mac(),
            9 => self.network()?.set_mac(a).map(|()| 0),
            _ => Err(io::Error::other(format!("operation {operation}"))),
        }
    }
}

fn serve() -> io::Result<()> {
    sys::mount("devtmpfs", "/dev")?;
    sys::mount("sysfs", "/sys")?;
    // Watched before it is looked for, so that no device falls between.
    let mut changes = sys::watch_devices()?;
    let mut port = loop {
        match device("vport", 0)? {
            Some(port) => break port,
            None => drop(changes.read(&mut [0; 4096])?),
        }
    };
    let host = sys::Edges::of(&port)?;
    // The second port, if there is one.
    if let Some(files) = device("vport0p2", 0)? {
        thread::spawn(|| send_back(files).expect("the file channel"));
    }
    let mut program = Program {
        counter: 0,
        area: Vec::new(),
        disk: device("vd", O_DIRECT)?.map(|file| Arc::new(Disk(file))),
        rounds: Arc::default(),
        network: Network::open()?,
    };
    loop {
        let mut request = [0; 17];
        let mut read = 0;
        while read < request.len() {
            match port.read(&mut request[read..])? {
                // Nobody is at the other end, or not yet.
                0 => host.wait()?,
                count => read += count,
            }
        }
        let answer = program.answer(request[0], word(&request[1..9]), word(&request[9..]))?;
        port.write_all(&answer.to_le_bytes())?;
    }
}

/// Sends back what comes, as `contract::files` wants it.
fn send_back(mut port: File) -> io::Result<()> {
    let host = sys::Edges::of(&port)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match port.read(&mut buffer)? {
            0 => host.wait()?,
            count => port.write_all(&buffer[..count])?,
        }
    }
}

fn main() {
    if let Err(error) = serve() {
        println!("the guest failed: {error}");
    }
}

/// What the standard library has no words for.
mod sys {
    use std::{
        ffi::{CString, c_char, c_int, c_ulong, c_void},
        fs::File,
        io,
        os::fd::{AsRawFd, FromRawFd, OwnedFd},
        ptr::null,
    };

    /// `struct epoll_event` of x86-64; epoll_ctl(2).
    #[repr(C, packed)]
    struct Event {
        events: u32,
        data: u64,
    }

    unsafe extern "C" {
        #[link_name = "mount"]
        fn libc_mount(
            source: *const c_char,
            target: *const c_char,
            kind: *const c_char,
            flags: c_ulong,
            data: *const c_void,
        ) -> c_int;
        safe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        fn bind(socket: c_int, address: *const u8, length: u32) -> c_int;
        fn ioctl(fd: c_int, request: c_ulong, argument: *mut Request) -> c_int;
        safe fn inotify_init1(flags: c_int) -> c_int;
        fn inotify_add_watch(fd: c_int, path: *const c_char, mask: u32) -> c_int;
        safe fn epoll_create1(flags: c_int) -> c_int;
        fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut Event) -> c_int;
        fn epoll_wait(epoll: c_int, events: *mut Event, count: c_int, timeout: c_int) -> c_int;
    }

    /// `IN_CREATE`; inotify(7).
    const CREATED: u32 = 0x100;
    /// `EPOLL_CTL_ADD`, `EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLET`; `linux/eventpoll.h`.
    const ADD: c_int = 1;
    const ANY_EDGE: u32 = 0x1 | 0x4 | 0x10 | 1 << 31;

    fn check(result: c_int) -> io::Result<c_int> {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    }

    fn owned(result: c_int) -> io::Result<OwnedFd> {
        // SAFETY: the callers' system calls have just returned it, and nobody else has it.
        check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Mounts a file system that needs no device.
    pub(crate) fn mount(kind: &str, target: &str) -> io::Result<()> {
        let (kind, target) = (CString::new(kind)?, CString::new(target)?);
        let (kind, target) = (kind.as_ptr(), target.as_ptr());
        // SAFETY: the strings live through the call; these kinds of file systems take no data.
        check(unsafe { libc_mount(kind, target, kind, 0, null()) }).map(drop)
    }

    /// Frames of the contract's type from and to the first interface, which is up then. packet(7),
    /// netdevice(7).
    pub(crate) fn packet_socket() -> io::Result<File> {
        let socket = owned(socket(AF_PACKET, SOCK_RAW, c_int::from(FRAME_TYPE.to_be())))?;
        // First: a socket of an interface that is down begins with an error.
        set_flags(&socket, IFF_UP)?;
        let mut request = Request::new();
        // SAFETY: the request is as long as the kernel takes it to be, and outlives the call.
        check(unsafe { ioctl(socket.as_raw_fd(), SIOCGIFINDEX, &mut request) })?;
        let mut address = [0; 20];
        address[..2].copy_from_slice(&(AF_PACKET as u16).to_ne_bytes());
        address[2..4].copy_from_slice(&FRAME_TYPE.to_be_bytes());
        address[4..8].copy_from_slice(&request.data[..4]);
        // SAFETY: the address is 20 bytes long and outlives the call.
        check(unsafe { bind(socket.as_raw_fd(), address.as_ptr(), 20) })?;
        Ok(socket.into())
    }

    fn set_flags(socket: &impl AsRawFd, flags: u16) -> io::Result<()> {
        let mut request = Request::new();
        request.data[..2].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: as above.
        check(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &mut request) }).map(drop)
    }

    /// Gives the interface the address in the first six bytes.
    pub(crate) fn set_mac(socket: &File, mac: [u8; 8]) -> io::Result<()> {
        let mut request = Request::new();
        request.data[..2].copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
        request.data[2..8].copy_from_slice(&mac[..6]);
        // SAFETY: as above.
        check(unsafe { ioctl(socket.as_raw_fd(), SIOCSIFHWADDR, &mut request) }).map(drop)
    }

    /// `struct ifreq`; netdevice(7).
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: [u8; 24],
    }

    impl Request {
        fn new() -> Self {
            let mut name = [0; 16];
            name[..super::INTERFACE.len()].copy_from_slice(super::INTERFACE.as_bytes());
            Self {
                name,
                data: [0; 24],
            }
        }
    }

    const AF_PACKET: c_int = 17;
    const SOCK_RAW: c_int = 3;
    /// `contract::FRAME_TYPE`.
    const FRAME_TYPE: u16 = 0x88b5;
    const IFF_UP: u16 = 1;
    const ARPHRD_ETHER: u16 = 1;
    /// `linux/sockios.h`.
    const SIOCSIFFLAGS: c_ulong = 0x8914;
    const SIOCSIFHWADDR: c_ulong = 0x8924;
    const SIOCGIFINDEX: c_ulong = 0x8933;

    /// Has something to read when a device has appeared.
    pub(crate) fn watch_devices() -> io::Result<File> {
        let changes = owned(inotify_init1(0))?;
        // SAFETY: the path is a constant.
        check(unsafe { inotify_add_watch(changes.as_raw_fd(), c"/dev".as_ptr(), CREATED) })?;
        Ok(changes.into())
    }

    /// Everything that happens to a file.
    pub(crate) struct Edges(OwnedFd);

    impl Edges {
        pub(crate) fn of(file: &File) -> io::Result<Self> {
            let epoll = owned(epoll_create1(0))?;
            let mut event = Event {
                events: ANY_EDGE,
                data: 0,
            };
            // SAFETY: `event` is initialised and outlives the call, which only reads it.
            check(unsafe { epoll_ctl(epoll.as_raw_fd(), ADD, file.as_raw_fd(), &mut event) })?;
            Ok(Self(epoll))
        }

        /// Waits until something has happened since the last call.
        pub(crate) fn wait(&self) -> io::Result<()> {
            let mut event = Event { events: 0, data: 0 };
            // SAFETY: there is room for one event, which outlives the call.
            check(unsafe { epoll_wait(self.0.as_raw_fd(), &mut event, 1, -1) }).map(drop)
        }
    }
}
