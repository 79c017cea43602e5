//! Moves data between the guest's connection and the host's socket, in both directions.
//!
//! Each direction moves until one side has enough: the kernel's buffer, smoltcp's buffer, or the
//! guest's window. That is the whole of back-pressure.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};
use smoltcp::socket::tcp;

use super::flow::Half;
use crate::{
    intercept::{Scanner, Secrets},
    poller::Ready,
};

/// Bytes that one flow moves in one direction before others have their turn.
const TURN_BYTES: usize = 1 << 20;

/// The result of moving data in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Everything that could be moved was.
    Done(usize),
    /// The turn is over, and there is more.
    More(usize),
    /// The host's side has failed.
    Failed(usize),
}

impl Moved {
    /// Bytes that were moved.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Done(count) | Self::More(count) | Self::Failed(count) => count,
        }
    }
}

/// Whether the guest has ended its direction.
pub(super) fn guest_ended(socket: &tcp::Socket<'_>) -> bool {
    matches!(
        socket.state(),
        tcp::State::CloseWait | tcp::State::LastAck | tcp::State::Closing | tcp::State::TimeWait
    )
}

/// Whether a FIN may be queued behind the data.
///
/// After the guest's own FIN it waits until the guest has taken all data: in the state LAST-ACK
/// smoltcp 0.14 ignores an acknowledgement that only opens the window, so data behind a closed
/// window would stay there.
fn may_close(socket: &tcp::Socket<'_>) -> bool {
    socket.state() != tcp::State::CloseWait || socket.send_queue() == 0
}

/// From the guest to the host. What `scan` finds fails the flow, and is not sent.
pub(super) fn up(
    socket: &mut tcp::Socket<'_>,
    fd: &OwnedFd,
    ready: &mut Ready,
    half: &mut Half,
    guest_ended: bool,
    mut scan: Option<(&mut Scanner, &Secrets)>,
) -> Moved {
    let mut moved = 0;
    while ready.write && socket.can_recv() {
        if moved >= TURN_BYTES {
            return Moved::More(moved);
        }
        let result = socket.recv(|data| {
            if let Some((scanner, secrets)) = &mut scan
                && scanner.finds(secrets, data)
            {
                return (0, Err(Errno::PERM));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(fd, data, flags) {
                Ok(count) => {
                    if let Some((scanner, secrets)) = &mut scan {
                        scanner.sent(secrets, &data[..count]);
                    }
                    (count, Ok(count))
                }
                Err(error) => (0, Err(error)),
            }
        });
        match result {
            Ok(Ok(count)) => moved += count,
            Ok(Err(Errno::INTR)) => {}
            Ok(Err(Errno::AGAIN)) => ready.write = false,
            Ok(Err(_)) => return Moved::Failed(moved),
            // `can_recv` excludes it.
            Err(_) => break,
        }
    }
    if *half == Half::Open && !socket.can_recv() && guest_ended {
        *half = Half::Ended;
        // The peer may be gone already; then reading says so.
        let _ = shutdown(fd, Shutdown::Write);
    }
    Moved::Done(moved)
}

/// From the host to the guest, with the end.
pub(super) fn down(
    socket: &mut tcp::Socket<'_>,
    fd: &OwnedFd,
    ready: &mut Ready,
    half: &mut Half,
) -> Moved {
    let moved = read(socket, fd, ready, half);
    if matches!(moved, Moved::Done(_)) && *half == Half::Ending && may_close(socket) {
        *half = Half::Ended;
        socket.close();
    }
    moved
}

/// Data from the host to the guest.
pub(super) fn read(
    socket: &mut tcp::Socket<'_>,
    fd: &OwnedFd,
    ready: &mut Ready,
    half: &mut Half,
) -> Moved {
    let mut moved = 0;
    while *half == Half::Open && ready.read && socket.can_send() {
        if moved >= TURN_BYTES {
            return Moved::More(moved);
        }
        let result = socket.send(|room| match recv(fd, room, RecvFlags::DONTWAIT) {
            Ok((_, count)) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        });
        match result {
            Ok(Ok(0)) => *half = Half::Ending,
            Ok(Ok(count)) => moved += count,
            Ok(Err(Errno::INTR)) => {}
            Ok(Err(Errno::AGAIN)) => ready.read = false,
            Ok(Err(_)) => return Moved::Failed(moved),
            // `can_send` excludes it.
            Err(_) => break,
        }
    }
    Moved::Done(moved)
}
