//! Byte streams to servers in the guest, beside the sessions.
//!
//! Each direction has its own window and its own end. An end from the host is a shutdown of the
//! socket's sending side, and the server's end is that of the output. A stream is over when both
//! have ended, or when the server has reset it. It shares the wait, the order of outputs and the
//! bound of the port's queue with the sessions, so it delays none of them by more than a chunk.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use cofferdam_proto::{AgentMessage, Channel, Failure, FailureKind};
use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{set_socket_linger, set_tcp_nodelay, socket_error},
    },
};

use super::{Checked, Sessions, flow::Medium, input::Input, log_failure, output::Output};
use crate::{
    failure::{OrFail, Result, failure},
    poll::{Poll, Token},
    port::Port,
};

/// Most byte streams at a time: each has two descriptors and up to one window of memory.
pub(crate) const MAX_STREAMS: usize = 256;

/// A connection that is being made.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// What the host asked for.
    target: String,
    addresses: Vec<SocketAddr>,
    socket: Option<OwnedFd>,
}

/// A byte stream.
#[derive(Debug)]
pub(super) enum GuestStream {
    Connecting(Attempt),
    Open(Box<OpenStream>),
}

#[derive(Debug)]
pub(super) struct OpenStream {
    input: Input,
    /// None once the server has ended its direction.
    output: Option<Output>,
}

impl Attempt {
    /// A connection to a TCP port of the loopback.
    pub(crate) fn to_port(port: u16) -> Self {
        // Taken from the end.
        let addresses = vec![
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        ];
        Self {
            target: format!("port {port}"),
            addresses,
            socket: None,
        }
    }

    /// A connection to a Unix socket, which `file` is.
    pub(crate) fn to_socket(path: &str, file: &OwnedFd) -> Result<Self> {
        let target = format!("`{path}`");
        let internal = FailureKind::Internal;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .or_fail(internal, || "Could not make a socket")?;
        // The file was found inside the workload's root; its own path is another one here.
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .or_fail(internal, || "Could not name a socket")?;
        connect(&socket, &address).map_err(|error| refused(&target, error))?;
        Ok(Self {
            target,
            addresses: Vec::new(),
            socket: Some(socket),
        })
    }

    /// Begins with the next address. True once the connection is there.
    ///
    /// # Errors
    /// When the last address has refused.
    fn next(&mut self, number: u32, poll: &Poll) -> Result<bool> {
        let mut last = Errno::CONNREFUSED;
        while let Some(address) = self.addresses.pop() {
            let family = match address {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let made = socket_with(family, SocketType::STREAM, flags, None);
            let outcome = made.and_then(|socket| match connect(&socket, &address) {
                Ok(()) => Ok((socket, true)),
                Err(Errno::INPROGRESS) => Ok((socket, false)),
                Err(error) => Err(error),
            });
            match outcome {
                Ok((socket, connected)) => {
                    // Requests are often small, and each is written as a whole.
                    let _ = set_tcp_nodelay(&socket, true);
                    if !connected {
                        poll.add(&socket, Token::Connection(number), EventFlags::OUT)?;
                    }
                    self.socket = Some(socket);
                    return Ok(connected);
                }
                // A guest without IPv6 has nothing at its address.
                Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::NETUNREACH) => {}
                Err(error) => last = error,
            }
        }
        Err(refused(&self.target, last))
    }
}

impl OpenStream {
    fn close(mut self, sessions: &Poll, outputs: &Poll) {
        if let Some(mut output) = self.output.take() {
            output.unwatch(outputs);
            if !self.input.is_closed() {
                // The server must not take what came this far for all of it.
                let _ = set_socket_linger(&output.fd, Some(Duration::ZERO));
            }
        }
        self.input.discard(sessions);
    }
}

impl Sessions {
    /// Begins a byte stream.
    ///
    /// # Errors
    /// [`FailureKind::Limits`] past [`MAX_STREAMS`], or why the connection could not be made.
    pub(crate) fn connect(
        &mut self,
        number: u32,
        mut attempt: Attempt,
        port: &mut Port,
    ) -> Result<()> {
        if self.streams.len() >= MAX_STREAMS {
            let message = format!("There are {MAX_STREAMS} byte streams already");
            return Err(failure(FailureKind::Limits, message));
        }
        let is_connected = attempt.socket.is_some() || attempt.next(number, &self.poll)?;
        if is_connected {
            return self.open_stream(number, attempt, port);
        }
        self.streams
            .insert(number, GuestStream::Connecting(attempt));
        Ok(())
    }

    /// The kernel has connected a byte stream, or could not.
    pub(super) fn connection_event(&mut self, number: u32, port: &mut Port) {
        if !matches!(
            self.streams.get(&number),
            Some(GuestStream::Connecting(Attempt {
                socket: Some(_),
                ..
            }))
        ) {
            return;
        }
        let Some(GuestStream::Connecting(attempt)) = self.streams.remove(&number) else {
            return;
        };
        let outcome = attempt.socket.as_ref().map(|socket| {
            self.poll.remove(socket);
            socket_error(socket)
        });
        let begun = match outcome {
            Some(Ok(Ok(()))) => self.open_stream(number, attempt, port),
            _ => self.connect(number, attempt.without_socket(), port),
        };
        if let Err(failure) = begun {
            port.send(number, &AgentMessage::Failed(failure));
        }
    }

    fn open_stream(&mut self, number: u32, attempt: Attempt, port: &mut Port) -> Result<()> {
        let internal = FailureKind::Internal;
        let socket = attempt
            .socket
            .ok_or_else(|| failure(internal, "A connection has no socket"))?;
        let sending = socket
            .try_clone()
            .or_fail(internal, || "Could not copy a socket")?;
        let mut output = Output::new(socket, Channel::Stdout, Medium::Socket);
        output.watch(&self.outputs, number)?;
        let stream = OpenStream {
            input: Input::new(Some(sending), Medium::Socket),
            output: Some(output),
        };
        self.streams
            .insert(number, GuestStream::Open(Box::new(stream)));
        port.send(number, &AgentMessage::Connected);
        Ok(())
    }

    fn stream(&mut self, number: u32) -> Option<&mut OpenStream> {
        match self.streams.get_mut(&number) {
            Some(GuestStream::Open(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Bytes for a server. Those of a stream that is over crossed its end and are dropped.
    pub(super) fn stream_data(
        &mut self,
        number: u32,
        bytes: &[u8],
        eof: bool,
        port: &mut Port,
    ) -> Checked {
        if let Some(stream) = self.stream(number) {
            stream.input.push(bytes, eof)?;
            self.pump_stream_input(number, port);
        }
        Ok(())
    }

    pub(super) fn stream_credit(&mut self, number: u32, channel: Channel, bytes: u32) -> Checked {
        let Some(GuestStream::Open(stream)) = self.streams.get_mut(&number) else {
            return Ok(());
        };
        if let Some(output) = &mut stream.output
            && channel == Channel::Stdout
        {
            output.give(bytes)?;
            log_failure(output.watch(&self.outputs, number));
        }
        Ok(())
    }

    pub(super) fn pump_stream_input(&mut self, number: u32, port: &mut Port) {
        let Some(GuestStream::Open(stream)) = self.streams.get_mut(&number) else {
            return;
        };
        if self.held {
            return;
        }
        match stream.input.pump(&self.poll, Token::Stdin(number)) {
            Ok(freed) => port.credit(number, freed),
            failed => log_failure(failed.map(drop)),
        }
        self.end_stream_if_over(number, port);
    }

    pub(super) fn pump_stream_output(&mut self, number: u32, port: &mut Port) {
        let Some(GuestStream::Open(stream)) = self.streams.get_mut(&number) else {
            return;
        };
        let Some(output) = &mut stream.output else {
            return;
        };
        output.pump(number, port);
        if output.reset {
            self.end_stream(number, port);
            return;
        }
        if output.exhausted {
            // Sends the end.
            output.pump(number, port);
            output.unwatch(&self.outputs);
            stream.output = None;
            self.end_stream_if_over(number, port);
        } else {
            log_failure(output.watch(&self.outputs, number));
        }
    }

    fn end_stream_if_over(&mut self, number: u32, port: &mut Port) {
        let is_over = |stream: &mut OpenStream| stream.output.is_none() && stream.input.is_closed();
        if self.stream(number).is_some_and(is_over) {
            self.end_stream(number, port);
        }
    }

    /// Removes a stream that the server has ended, and says how.
    fn end_stream(&mut self, number: u32, port: &mut Port) {
        let Some(GuestStream::Open(stream)) = self.streams.remove(&number) else {
            return;
        };
        let reset = stream.input.failed || stream.output.is_some();
        stream.close(&self.poll, &self.outputs);
        let message = if reset {
            let kind = FailureKind::ConnectionReset;
            AgentMessage::Failed(failure(
                kind,
                "The server in the guest reset the connection",
            ))
        } else {
            AgentMessage::Disconnected
        };
        port.send(number, &message);
    }

    /// The host has no use for a stream any more.
    pub(super) fn close_stream(&mut self, number: u32) {
        match self.streams.remove(&number) {
            Some(GuestStream::Open(stream)) => stream.close(&self.poll, &self.outputs),
            // Its socket leaves the wait as it is closed: nothing else has it open.
            Some(GuestStream::Connecting(_)) | None => {}
        }
    }

    pub(super) fn close_streams(&mut self) {
        let numbers: Vec<u32> = self.streams.keys().copied().collect();
        for number in numbers {
            self.close_stream(number);
        }
    }
}

impl Attempt {
    fn without_socket(mut self) -> Self {
        self.socket = None;
        self
    }
}

fn refused(target: &str, error: Errno) -> Failure {
    let kind = match error {
        Errno::CONNREFUSED | Errno::NOENT | Errno::NOTSOCK => FailureKind::ConnectionRefused,
        _ => FailureKind::Internal,
    };
    let message = match error {
        Errno::CONNREFUSED => format!("Nothing in the guest listens on {target}"),
        error => format!("Could not connect to {target} of the guest: {error}"),
    };
    failure(kind, message)
}
