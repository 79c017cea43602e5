//! A session as pipes: `AsyncRead` for its standard output and error, `AsyncWrite` for its input.
//!
//! One task takes what the supervisor sends. It gives credit for what was read of each pipe, so
//! that a pipe that nobody reads holds one window and does not stop the other one.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use cofferdam_runtime::{Channel, Error, ErrorKind, Incoming, Receiver, Result, SupervisorMessage};
use cofferdam_types::ExitStatus;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use crate::{Sandbox, Session, SessionWriter, polled::Polled, session::next_of};

/// Most bytes of one call of [`SessionStdin::poll_write`].
const MAX_WRITE_BYTES: usize = 64 << 10;

/// The streams of a session as pipes. When all of it is dropped, that is as when the [`Session`]
/// was dropped. A pipe that is dropped alone throws away what comes.
#[derive(Debug)]
pub struct SessionPipes {
    /// Its standard input.
    pub stdin: SessionStdin,
    /// Its standard output.
    pub stdout: SessionOutput,
    /// Its standard error; empty with a terminal.
    pub stderr: SessionOutput,
    /// Its end.
    pub exit: SessionExit,
}

/// One pipe of output. At the end of the session's output it is at its end.
#[derive(Debug)]
pub struct SessionOutput {
    index: usize,
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

/// The input of a session. `poll_shutdown` ends it; a drop does not.
#[derive(Debug)]
pub struct SessionStdin(Polled<SessionWriter, Result<()>>);

/// The end of a session.
#[derive(Debug)]
pub struct SessionExit {
    status: oneshot::Receiver<Result<ExitStatus>>,
    _task: Arc<Task>,
}

/// What the task and the pipes share. The lock is held for a copy, never across an await.
#[derive(Debug, Default)]
struct Shared {
    outputs: Mutex<[Output; 2]>,
    /// That something was read.
    read: Notify,
}

#[derive(Debug, Default)]
struct Output {
    /// At most a window.
    bytes: VecDeque<u8>,
    /// Read, and not yet credited.
    read: u32,
    is_over: bool,
    is_dropped: bool,
    waker: Option<Waker>,
}

/// Ends the task with the last of the pipes.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Its streams as pipes. Called before the first event; events that were taken are not in them.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when a call of [`Session::next`] was given up half-way.
    pub fn into_pipes(self) -> Result<SessionPipes> {
        let (reader, writer) = self.split();
        let (mut receiver, sandbox) = reader.into_receiver().ok_or_else(|| {
            let what = "A call for the next event of the session is under way";
            Error::new(ErrorKind::WrongState, what)
        })?;
        receiver.hold_credit();
        let shared = Arc::new(Shared::default());
        let (end, status) = oneshot::channel();
        let task = tokio::spawn(pump(receiver, sandbox, Arc::clone(&shared), end));
        let task = Arc::new(Task(task));
        let output = |index| SessionOutput {
            index,
            shared: Arc::clone(&shared),
            _task: Arc::clone(&task),
        };
        Ok(SessionPipes {
            stdin: SessionStdin(Polled::new(writer)),
            stdout: output(0),
            stderr: output(1),
            exit: SessionExit {
                status,
                _task: Arc::clone(&task),
            },
        })
    }
}

/// Puts output into the pipes until the session's end.
async fn pump(
    mut receiver: Receiver,
    sandbox: Sandbox,
    shared: Arc<Shared>,
    end: oneshot::Sender<Result<ExitStatus>>,
) {
    let result = loop {
        let read = shared.take_read();
        if read != [0; 2] {
            receiver.has_read(read).await;
        }
        let incoming = tokio::select! {
            incoming = next_of(&mut receiver, &sandbox) => incoming,
            () = shared.read.notified() => continue,
        };
        match incoming {
            Ok(Incoming::Output {
                channel,
                bytes,
                eof,
            }) => shared.put(channel, bytes, eof),
            Ok(Incoming::Message(SupervisorMessage::Exited { status })) => break Ok(status),
            Ok(Incoming::Message(SupervisorMessage::Failed(failure))) => {
                break Err(cofferdam_runtime::remote_failure(&failure));
            }
            Ok(Incoming::Message(_)) => {}
            Err(error) => break Err(error),
        }
    };
    shared.end();
    // Nobody may wait for it.
    let _ = end.send(result);
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, [Output; 2]> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, channel: Channel, bytes: Vec<u8>, eof: bool) {
        let output = &mut self.lock()[usize::from(channel == Channel::Stderr)];
        if output.is_dropped {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            output.read = output.read.saturating_add(length);
        } else {
            output.bytes.extend(bytes);
        }
        output.is_over |= eof;
        output.wake();
    }

    fn take_read(&self) -> [u32; 2] {
        self.lock()
            .each_mut()
            .map(|output| std::mem::take(&mut output.read))
    }

    fn end(&self) {
        for output in self.lock().iter_mut() {
            output.is_over = true;
            output.wake();
        }
    }
}

impl Output {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Takes as much as fits; returns whether that, or the end, is there.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let (front, _) = self.bytes.as_slices();
        let length = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..length]);
        self.bytes.drain(..length);
        let read = u32::try_from(length).unwrap_or(u32::MAX);
        self.read = self.read.saturating_add(read);
        length > 0 || self.is_over || buffer.remaining() == 0
    }
}

impl AsyncRead for SessionOutput {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let output = &mut self.shared.lock()[self.index];
        if !output.take(buffer) {
            output.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.shared.read.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SessionOutput {
    fn drop(&mut self) {
        let output = &mut self.shared.lock()[self.index];
        output.is_dropped = true;
        let rest = u32::try_from(output.bytes.len()).unwrap_or(u32::MAX);
        output.bytes.clear();
        output.read = output.read.saturating_add(rest);
        self.shared.read.notify_one();
    }
}

impl SessionStdin {
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.poll_pending(context) {
            Poll::Ready(Some(result)) => Poll::Ready(result.map_err(broken)),
            Poll::Ready(None) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for SessionStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_idle(context))?;
        let part = bytes[..bytes.len().min(MAX_WRITE_BYTES)].to_vec();
        let length = part.len();
        let call = async move |mut writer: SessionWriter| {
            let written = writer.write(&part).await;
            (writer, written)
        };
        match self.0.poll(context, call) {
            Poll::Ready(result) => Poll::Ready(result.map_err(broken).map(|()| length)),
            // It is ours now; the next call waits for it.
            Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_idle(context))?;
        let call = async |mut writer: SessionWriter| {
            let closed = writer.close().await;
            (writer, closed)
        };
        self.0.poll(context, call).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl SessionExit {
    /// Waits for the end of the process. All its output is in the pipes then.
    ///
    /// # Errors
    /// Why the sandbox failed, or that it does not run any more.
    pub async fn wait(self) -> Result<ExitStatus> {
        self.status.await.unwrap_or_else(|_| {
            let what = "The task of the session was ended";
            Err(Error::new(ErrorKind::Cancelled, what))
        })
    }
}
