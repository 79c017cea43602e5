//! A netlink socket to the guest's kernel.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
        socket_with,
    },
};

use super::message::{Message, Requests, messages, number};

/// The kernel sends at most this in one datagram; `NLMSG_GOODSIZE` of linux/netlink.h is smaller.
const DATAGRAM_BYTES: usize = 32 << 10;

/// The socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// A request that the kernel refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its place among the requests.
    pub(super) request: u32,
    pub(super) reason: io::Error,
}

impl Socket {
    /// Opens a socket of a netlink family; `None` is `NETLINK_ROUTE`, the protocol 0.
    ///
    /// # Errors
    /// The kernel's; it may have been built without the family.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::RAW, flags, protocol)?;
        Ok(Self(socket))
    }

    /// Sends requests that all want an acknowledgement, and waits for these. The kernel works them
    /// off in order and does not stop at one that fails; the refusals are returned.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn call(&self, requests: &Requests) -> io::Result<Vec<Refused>> {
        send(&self.0, requests.bytes(), SendFlags::empty())?;
        let (mut refused, mut left) = (Vec::new(), requests.len());
        while left > 0 {
            self.receive(|message| {
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    return;
                }
                left = left.saturating_sub(1);
                if let Some(reason) = reason(message.payload) {
                    let request = message.sequence;
                    refused.push(Refused { request, reason });
                }
            })?;
        }
        Ok(refused)
    }

    /// Sends one request for a list and gives each of its messages to `take`.
    ///
    /// # Errors
    /// The socket's, or the kernel's answer.
    pub(super) fn list(&self, request: &Requests, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        send(&self.0, request.bytes(), SendFlags::empty())?;
        let mut end = None;
        while end.is_none() {
            self.receive(|message| match i32::from(message.kind) {
                libc::NLMSG_DONE => end = Some(Ok(())),
                libc::NLMSG_ERROR => {
                    let error = reason(message.payload).unwrap_or_else(|| Errno::PROTO.into());
                    end = Some(Err(error));
                }
                _ => take(message.payload),
            })?;
        }
        end.unwrap_or(Ok(()))
    }

    fn receive(&self, mut take: impl FnMut(&Message<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
        let datagram = buffer.get(..length).unwrap_or_default();
        messages(datagram).for_each(|message| take(&message));
        Ok(())
    }
}

/// The error in `struct nlmsgerr`, which begins with the negative number; none for 0.
fn reason(payload: &[u8]) -> Option<io::Error> {
    let number = number(payload, 0)?.cast_signed();
    (number != 0).then(|| io::Error::from_raw_os_error(number.saturating_neg()))
}
