//! Our standard output or error, written by a thread of its own.
//!
//! A reader that is slow, or a terminal that is stopped, then blocks that thread and not the
//! session's signals and input. A few chunks are under way at most, so the slowness reaches the
//! process in the sandbox as it would without us.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    thread,
};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::{mpsc, oneshot};

/// Chunks that wait for the thread; each is at most a frame of the session.
const CHUNKS_UNDER_WAY: usize = 4;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A stream; its thread starts with the first byte.
#[derive(Debug)]
pub(crate) struct Sink {
    stream: Stream,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    chunks: mpsc::Sender<Vec<u8>>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Sink {
    pub(crate) const fn new(stream: Stream) -> Self {
        Self {
            stream,
            writer: None,
        }
    }

    /// Hands bytes to the thread; waits while enough are under way.
    ///
    /// # Errors
    /// When an earlier write failed; what is written later fails too or is dropped.
    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let writer = match &self.writer {
            Some(writer) => writer,
            None => self.writer.insert(Writer::start(self.stream)?),
        };
        if writer.chunks.send(bytes).await.is_ok() {
            return Ok(());
        }
        self.finish().await
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// When a write failed.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        let Some(Writer { chunks, result }) = self.writer.take() else {
            return Ok(());
        };
        drop(chunks);
        result
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl Writer {
    fn start(stream: Stream) -> io::Result<Self> {
        // A descriptor of its own: the standard library's would buffer by lines.
        let owned = match stream {
            Stream::Stdout => io::stdout().as_fd().try_clone_to_owned(),
            Stream::Stderr => io::stderr().as_fd().try_clone_to_owned(),
        };
        let file = File::from(owned?);
        let (chunks, queue) = mpsc::channel(CHUNKS_UNDER_WAY);
        let (report, result) = oneshot::channel();
        thread::Builder::new().spawn(move || {
            // Nobody asks for the result when the session ended in an error of its own.
            let _ = report.send(write_queue(&file, queue));
        })?;
        Ok(Self { chunks, result })
    }
}

fn write_queue(mut file: &File, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = queue.blocking_recv() {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares the descriptor made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(file, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_written_arrives_whole_and_in_order_through_a_full_non_blocking_pipe() {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (chunks, queue) = mpsc::channel(CHUNKS_UNDER_WAY);
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let thread = thread::spawn(move || write_queue(&file, queue));
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            let mut reader = reader;
            reader.read_to_end(&mut all).map(|_| all)
        });
        let mut expected = Vec::new();
        for number in 0..40_u8 {
            let chunk = vec![number; 30_000];
            expected.extend_from_slice(&chunk);
            chunks.blocking_send(chunk).unwrap();
        }
        drop(chunks);
        thread.join().unwrap().unwrap();
        assert!(read.join().unwrap().unwrap() == expected);
    }

    #[test]
    fn a_reader_that_is_gone_is_a_broken_pipe() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (chunks, queue) = mpsc::channel(CHUNKS_UNDER_WAY);
        chunks.blocking_send(vec![0]).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let error = write_queue(&file, queue).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
