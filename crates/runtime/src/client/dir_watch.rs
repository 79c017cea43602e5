//! Waiting for changes of a directory's files, without asking again and again.
//!
//! *Source:* inotify(7).

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::fs::inotify;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe::Receiver as Pipe,
};

/// A watch over the files of one directory.
#[derive(Debug)]
pub(super) struct DirWatch(Pipe);

impl DirWatch {
    /// Watches `dir` from now on.
    ///
    /// # Errors
    /// The file system's, or the kernel's when it has too many watches.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &fd,
            dir,
            inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::DELETE_SELF
                | inotify::WatchFlags::MOVE_SELF,
        )?;
        // An inotify descriptor is read like a pipe; the type is tokio's safe way to wait for one.
        Pipe::from_owned_fd_unchecked(fd).map(Self)
    }

    /// Waits until a file has changed since the last call.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_changed(context)).await
    }

    /// The same as a poll. What changed does not matter: the caller looks for itself.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut has_changed = false;
        loop {
            let mut buffer = [0; 4096];
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.0).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) => has_changed = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if has_changed => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
