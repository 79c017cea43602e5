//! A byte stream to a server in a sandbox.
//!
//! ```text
//!   poll_write ──► outgoing (64 KiB) ──► task ──► supervisor ──► agent ──► server
//!   poll_read  ◄── incoming (a window) ◄── task ◄── supervisor ◄── agent ◄──┘
//! ```
//! Two tasks move the bytes, so that a direction goes on while its owner waits for the other one.

mod tasks;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use cofferdam_runtime::{
    Connection, Error, ErrorKind, Request, Result, StreamTarget, SupervisorMessage,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use self::tasks::{receive, send};
use crate::Sandbox;

/// Most bytes that wait for the task that sends.
const OUTGOING_BYTES: usize = 64 << 10;

/// A byte stream to a server in a sandbox: `AsyncRead` and `AsyncWrite`.
///
/// `poll_shutdown` ends the direction to the server and leaves the other one open. The server's end
/// is the end of what is read. If the server resets the stream, reads and writes fail with
/// [`io::ErrorKind::ConnectionReset`]; if the sandbox ends, with
/// [`io::ErrorKind::ConnectionAborted`]. When both halves are dropped, what was written still goes
/// to the server, for as long as it takes that, and then the connection is closed. A program that
/// does not want to leave it to the server resets the stream.
#[derive(Debug)]
pub struct GuestStream {
    reader: GuestStreamReader,
    writer: GuestStreamWriter,
}

/// The reading half of a [`GuestStream`].
#[derive(Debug)]
pub struct GuestStreamReader(Arc<Owner>);

/// The writing half of a [`GuestStream`]. A drop does not end its direction; a shutdown does.
#[derive(Debug)]
pub struct GuestStreamWriter(Arc<Owner>);

/// Ends the tasks with the last half.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state().is_dropped = true;
        self.0.changed.notify_waiters();
        self.0.to_send.notify_one();
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Held for a copy, never across an await.
    state: Mutex<State>,
    /// That bytes were read, that the stream was dropped or reset, or that nothing more is sent.
    changed: Notify,
    /// That something is to be sent, or nothing more.
    to_send: Notify,
    /// That the stream is to be reset.
    to_reset: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// At most a window.
    incoming: VecDeque<u8>,
    /// Read, and not yet credited.
    read: u32,
    has_ended: bool,
    outgoing: Vec<u8>,
    sending: Sending,
    /// Whether the task that sends is at work on what it took.
    is_at_work: bool,
    /// Whether that task is over.
    has_sent_all: bool,
    /// How the stream ended; none while it lasts. A write that fails is no end: what the server
    /// has sent before may still come.
    end: Option<std::result::Result<(), (io::ErrorKind, String)>>,
    is_dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The direction to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Open,
    /// The caller has shut it down; its end is not sent yet.
    Ending,
    Ended,
    /// Something could not be sent, or was not to be: a reset follows.
    Broken,
}

impl Sandbox {
    /// Connects to a TCP port of the sandbox's loopback: 127.0.0.1, then ::1 if that refuses. Works
    /// without a network too. The stream is the caller's own: a fork of the sandbox does not have
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionRefused`] when no server listens there; [`ErrorKind::WrongState`]
    /// when the sandbox does not run or is paused; [`ErrorKind::Unsupported`] when it has too many
    /// streams.
    pub async fn connect(&self, port: u16) -> Result<GuestStream> {
        self.open_stream(StreamTarget::Port(port)).await
    }

    /// Connects to a Unix socket of the sandbox's file system by its absolute path.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_socket(&self, path: impl Into<String> + Send) -> Result<GuestStream> {
        self.open_stream(StreamTarget::Socket(path.into())).await
    }

    async fn open_stream(&self, target: StreamTarget) -> Result<GuestStream> {
        let (connection, answer) = self
            .coffer()
            .runtime
            .request(&self.now()?, Request::Connect(target))
            .await?;
        match answer {
            SupervisorMessage::Connected => Ok(GuestStream::new(connection, self.clone())),
            _ => Err(Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{}` ended before the connection", self.name()),
            )),
        }
    }
}

impl GuestStream {
    fn new(connection: Connection, sandbox: Sandbox) -> Self {
        let (mut receiver, outgoing) = connection.split();
        receiver.hold_credit();
        let shared = Arc::new(Shared::default());
        tokio::spawn(receive(receiver, sandbox, Arc::clone(&shared)));
        tokio::spawn(send(outgoing, Arc::clone(&shared)));
        Self::of(shared)
    }

    fn of(shared: Arc<Shared>) -> Self {
        let owner = Arc::new(Owner(shared));
        Self {
            reader: GuestStreamReader(Arc::clone(&owner)),
            writer: GuestStreamWriter(owner),
        }
    }

    /// Its two halves.
    #[must_use]
    pub fn into_split(self) -> (GuestStreamReader, GuestStreamWriter) {
        (self.reader, self.writer)
    }

    /// Ends both directions at once: the server gets a reset. What was not yet sent is lost.
    pub fn reset(self) {
        self.writer.reset();
    }
}

impl GuestStreamWriter {
    /// As [`GuestStream::reset`]; the reading half fails. Also after a shutdown.
    pub fn reset(&self) {
        let shared = &self.0.0;
        let mut state = shared.state();
        state.end.get_or_insert_with(|| {
            let what = "The stream was reset".to_owned();
            Err((io::ErrorKind::ConnectionReset, what))
        });
        state.sending = Sending::Broken;
        state.wake_reader();
        state.wake_writer();
        drop(state);
        shared.to_reset.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream has ended; the caller's own reset may have come first.
    fn has_ended(&self, end: std::result::Result<(), (io::ErrorKind, String)>) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        state.wake_reader();
        state.wake_writer();
        drop(state);
        self.to_send.notify_one();
    }
}

impl State {
    fn take_outgoing(&mut self) -> (Vec<u8>, Sending) {
        let bytes = std::mem::take(&mut self.outgoing);
        self.is_at_work = !bytes.is_empty();
        self.wake_writer();
        (bytes, self.sending)
    }

    /// What was taken was sent, with the end if it was `ending`. True when nothing more is to be
    /// sent.
    fn has_sent(&mut self, ending: bool) -> bool {
        self.is_at_work = false;
        // A reset may have come meanwhile.
        if ending && self.sending == Sending::Ending {
            self.sending = Sending::Ended;
        }
        self.wake_writer();
        let nothing_left = self.outgoing.is_empty() && self.sending != Sending::Ending;
        self.end.is_some() || self.is_dropped && nothing_left
    }

    /// What was taken could not be sent.
    fn has_broken(&mut self) {
        self.is_at_work = false;
        self.sending = Sending::Broken;
        self.wake_writer();
    }

    /// What was read since the last call, in bytes.
    fn take_read(&mut self) -> u32 {
        if self.is_dropped {
            // Nobody reads it, and the server is not to wait for that.
            let unread = u32::try_from(self.incoming.len()).unwrap_or(u32::MAX);
            self.incoming.clear();
            self.read = self.read.saturating_add(unread);
        }
        std::mem::take(&mut self.read)
    }

    /// Whether nothing that comes is of use.
    fn is_unread(&self) -> bool {
        self.has_sent_all && (self.is_dropped || self.end.is_some())
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Fails if nothing can be sent any more.
    fn check(&self) -> io::Result<()> {
        match &self.end {
            None if self.sending != Sending::Broken => Ok(()),
            None | Some(Ok(())) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(Err((kind, what))) => Err(io::Error::new(*kind, what.clone())),
        }
    }
}

impl AsyncRead for GuestStreamReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &self.0.0;
        let mut state = shared.state();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let (front, _) = state.incoming.as_slices();
        let length = front.len().min(buffer.remaining());
        if length > 0 {
            buffer.put_slice(&front[..length]);
            state.incoming.drain(..length);
            let read = u32::try_from(length).unwrap_or(u32::MAX);
            state.read = state.read.saturating_add(read);
            drop(state);
            shared.changed.notify_waiters();
            return Poll::Ready(Ok(()));
        }
        match &state.end {
            Some(Err((kind, what))) => Poll::Ready(Err(io::Error::new(*kind, what.clone()))),
            Some(Ok(())) => Poll::Ready(Ok(())),
            None if state.has_ended => Poll::Ready(Ok(())),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for GuestStreamWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let shared = &self.0.0;
        let mut state = shared.state();
        state.check()?;
        if state.sending != Sending::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = bytes.len().min(OUTGOING_BYTES - state.outgoing.len());
        if length == 0 && !bytes.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.outgoing.extend_from_slice(&bytes[..length]);
        drop(state);
        shared.to_send.notify_one();
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.0.state();
        if state.outgoing.is_empty() && !state.is_at_work {
            return Poll::Ready(Ok(()));
        }
        state.check()?;
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &self.0.0;
        let mut state = shared.state();
        // A stream whose directions have both ended has nothing to be shut down.
        if state.sending == Sending::Ended || matches!(state.end, Some(Ok(()))) {
            return Poll::Ready(Ok(()));
        }
        state.check()?;
        state.sending = Sending::Ending;
        state.writer = Some(context.waker().clone());
        drop(state);
        shared.to_send.notify_one();
        Poll::Pending
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
