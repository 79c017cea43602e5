//! The host's end of the wire: the virtio-console port named [`AGENT_PORT_NAME`].
//!
//! The port is watched edge-triggered, since a port without a host reports a hang-up for as long
//! as that lasts. When the host goes, what was half received and what was not yet sent goes with
//! it: the next host starts with a `Hello` on a clean stream. Bytes that are still in the kernel go
//! too, but only in the middle of a frame: else they may already be the next host's. What was said before the first host
//! came (`Ready`) is kept for it. A host that goes and comes back at once may not be seen to have
//! gone: a template is therefore captured after `Quiesced`, when no frame is under way. Nothing is
//! searched for in a stream that has lost its frames, since the bytes may be a user's.
//!
//! Outgoing frames stand in one queue, so nothing overtakes; data is only added to a short queue
//! ([`Port::is_congested`]), so control frames never wait for more than that.
//!
//! Source: virtio 1.2 §5.3, drivers/char/virtio_console.c.

use std::{fs, os::fd::OwnedFd, path::Path};

use cofferdam_proto::{
    AGENT_PORT_NAME, AgentMessage, CONTROL_STREAM, Channel, Decoder, FailureKind, FrameError,
    HEADER_BYTES, encode_control, encode_credit, encode_data,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll::EventFlags, poll},
    fs::{Mode, OFlags},
    io::{Errno, read, write},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
};

use crate::{
    failure::{OrFail, Result, failure},
    log,
    poll::{Poll, Token},
};

/// Unsent bytes from which no more data is taken from processes.
const CONGESTED_BYTES: usize = 64 << 10;

/// Unsent bytes from which the host is not listened to: it does not listen either.
const DEAF_BYTES: usize = 1 << 20;

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// The connection to the host.
#[derive(Debug)]
pub(crate) struct Port {
    fd: OwnedFd,
    /// What was received and not yet taken as frames.
    pub(crate) decoder: Decoder,
    /// Bytes given to `decoder` that were not yet part of a whole frame.
    partial: usize,
    incoming: Vec<u8>,
    queue: Vec<u8>,
    sent: usize,
    readable: bool,
    writable: bool,
    connected: bool,
    /// The host broke the protocol; it is not listened to until another one comes.
    broken: bool,
}

impl Port {
    /// Finds and opens the port, waiting for the kernel to announce it.
    pub(crate) fn open() -> Result<Self> {
        let failed = || "Could not open the agent's port";
        let kind = FailureKind::Internal;
        // Listens before it looks, so that no announcement falls between.
        let flags = SocketFlags::CLOEXEC;
        let announcements = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            flags,
            Some(KOBJECT_UEVENT),
        )
        .or_fail(kind, failed)?;
        bind(&announcements, &SocketAddrNetlink::new(0, 1)).or_fail(kind, failed)?;
        let node = loop {
            if let Some(node) = find() {
                break node;
            }
            let mut event = [0_u8; 4096];
            match recv(&announcements, &mut event, RecvFlags::empty()) {
                // Too many to keep is as good as one.
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(error) => return Err(error).or_fail(kind, failed),
            }
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&node, flags, Mode::empty()).or_fail(kind, failed)?;
        Ok(Self {
            fd,
            decoder: Decoder::new(),
            partial: 0,
            incoming: vec![0; READ_BYTES],
            queue: Vec::new(),
            sent: 0,
            readable: true,
            writable: true,
            connected: false,
            broken: false,
        })
    }

    /// Adds the port to a set, which must be waited on for as long as the host is listened to.
    pub(crate) fn watch(&self, poll: &Poll) -> Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        poll.add(&self.fd, Token::Port, flags)
    }

    /// Takes in what epoll reports.
    pub(crate) fn changed(&mut self, flags: EventFlags) {
        self.readable = true;
        self.writable = true;
        let was_connected = self.connected;
        self.connected = !flags.contains(EventFlags::HUP);
        if was_connected && !self.connected {
            self.queue.clear();
            self.sent = 0;
            if self.broken || self.partial > 0 {
                self.discard();
            }
            self.decoder = Decoder::new();
            self.partial = 0;
            self.broken = false;
            log::notice("Host has hung up");
        }
    }

    /// Throws away what the kernel still holds of a host that has gone.
    fn discard(&mut self) {
        let now = Timespec::default();
        loop {
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            let gone =
                poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP);
            // Stops as soon as another host is there: the rest is its own.
            if !gone || !matches!(read(&self.fd, self.incoming.as_mut_slice()), Ok(1..)) {
                return;
            }
        }
    }

    /// Whether there may be bytes to receive, without an event that would say so.
    pub(crate) fn can_receive(&self) -> bool {
        self.readable && self.unsent() < DEAF_BYTES
    }

    /// Receives some bytes into the decoder; `false` when there are none, or none are wanted.
    pub(crate) fn receive(&mut self) -> bool {
        if !self.can_receive() {
            return false;
        }
        match read(&self.fd, self.incoming.as_mut_slice()) {
            Ok(0) | Err(Errno::AGAIN) => self.readable = false,
            Ok(count) => {
                if !self.broken {
                    self.decoder
                        .push(self.incoming.get(..count).unwrap_or_default());
                    self.partial += count;
                }
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(error) => {
                self.readable = false;
                log::error(&format!("Could not read from the host: {error}"));
            }
        }
        false
    }

    /// A whole frame with this payload was taken from the decoder.
    pub(crate) fn took_frame(&mut self, payload_bytes: usize) {
        self.partial = self.partial.saturating_sub(HEADER_BYTES + payload_bytes);
    }

    /// Stops listening to a host that broke the protocol, and tells it so.
    pub(crate) fn give_up(&mut self, error: FrameError) {
        let message = format!("Host broke the protocol: {error}");
        log::error(&message);
        self.broken = true;
        self.decoder = Decoder::new();
        self.send(
            CONTROL_STREAM,
            &AgentMessage::Failed(failure(FailureKind::OutOfOrder, message)),
        );
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, stream: u32, message: &AgentMessage) {
        if let Err(error) = encode_control(stream, message, &mut self.queue) {
            // Messages hold one sentence at most, cut from bounded input.
            log::error(&format!("Could not encode a message: {error}"));
        }
    }

    /// Queues data of a channel.
    pub(crate) fn data(&mut self, stream: u32, channel: Channel, bytes: &[u8], eof: bool) {
        encode_data(stream, channel, bytes, eof, &mut self.queue);
    }

    /// Queues credit for standard input.
    pub(crate) fn credit(&mut self, stream: u32, bytes: u32) {
        if bytes > 0 {
            encode_credit(stream, Channel::Stdin, bytes, &mut self.queue);
        }
    }

    /// Whether processes have to wait before they may say more.
    pub(crate) fn is_congested(&self) -> bool {
        self.unsent() >= CONGESTED_BYTES
    }

    /// Sends what the host takes now.
    pub(crate) fn flush(&mut self) {
        while self.writable && self.unsent() > 0 {
            match write(&self.fd, self.queue.get(self.sent..).unwrap_or_default()) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(error) => {
                    self.writable = false;
                    log::error(&format!("Could not write to the host: {error}"));
                }
            }
        }
        // Moves the rest once it is small: never more bytes moved than were sent.
        if self.sent >= self.unsent() {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn unsent(&self) -> usize {
        self.queue.len() - self.sent
    }
}

/// The port's device node, if the kernel knows the port by now.
fn find() -> Option<String> {
    let node = |entry: &Path| {
        let name = fs::read_to_string(entry.join("name")).ok()?;
        let node = format!("/dev/{}", entry.file_name()?.to_str()?);
        (name.trim_end() == AGENT_PORT_NAME && Path::new(&node).exists()).then_some(node)
    };
    let mut ports = fs::read_dir("/sys/class/virtio-ports")
        .ok()?
        .filter_map(std::result::Result::ok);
    ports.find_map(|entry| node(&entry.path()))
}
