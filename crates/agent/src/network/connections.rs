//! The end of connections: inherited ones, and those of addresses that go.
//!
//! *Source:* sock_diag(7); linux/inet_diag.h, linux/sock_diag.h; tcp(7) for the states.

use std::{io, net::IpAddr};

use rustix::net::netlink;

use super::{message::Requests, socket::Socket};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of linux/sock_diag.h.
const LIST: u16 = 20;
const DESTROY: u16 = 21;

/// Offset of `id` in `struct inet_diag_req_v2` is 8, in `struct inet_diag_msg` 4.
const REPLY_ID: usize = 4;

/// `struct inet_diag_sockid`: ports (2 bytes each), addresses (16 each), interface, cookie.
const ID_BYTES: usize = 48;
const SOURCE: usize = 4;
const DESTINATION: usize = 20;

/// A socket's state in `struct inet_diag_msg`.
const REPLY_STATE: usize = 1;

/// Every state of a connection that has another end: all but `TCP_TIME_WAIT` (6), `TCP_CLOSE` (7)
/// and `TCP_LISTEN` (10), as bits; include/net/tcp_states.h.
const CONNECTED: u32 = 0x1ffe & !(1 << 6 | 1 << 7 | 1 << 10);

/// Most connections that are ended with one call; more take more calls.
const BATCH: u32 = 256;

/// A socket for questions about sockets.
pub(super) fn socket() -> io::Result<Socket> {
    Socket::open(Some(netlink::SOCK_DIAG))
}

/// Ends each TCP connection whose other end is neither on the loopback nor one of the guest's
/// `own` addresses. Its owner gets `ECONNABORTED`.
pub(super) fn end_all(socket: &Socket, own: &[IpAddr]) -> io::Result<()> {
    end(socket, |family, id| {
        address(family, id, DESTINATION).is_some_and(|address| is_outside(address, own))
    })
}

/// Ends each TCP connection from one of the addresses `gone`. Its owner gets `ECONNABORTED`, and
/// the other end a reset.
pub(super) fn end_of(socket: &Socket, gone: &[IpAddr]) -> io::Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    end(socket, |family, id| {
        address(family, id, SOURCE).is_some_and(|address| gone.contains(&address))
    })
}

/// Ends the connections that `is_meant` picks by their family and `struct inet_diag_sockid`.
fn end(socket: &Socket, is_meant: impl Fn(u8, &[u8]) -> bool) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut list = Requests::default();
        let all = request(family, CONNECTED, &[0; ID_BYTES]);
        list.push(LIST, libc::NLM_F_DUMP, &all, &[]);
        socket.list(&list, |reply| {
            if let Some(id) = reply.get(REPLY_ID..REPLY_ID + ID_BYTES)
                && reply.get(REPLY_STATE).is_some()
                && is_meant(family, id)
            {
                found.push(id.to_vec());
            }
        })?;
        destroy(socket, family, &found)?;
    }
    Ok(())
}

fn destroy(socket: &Socket, family: u8, ids: &[Vec<u8>]) -> io::Result<()> {
    for ids in ids.chunks(BATCH as usize) {
        let mut requests = Requests::default();
        for id in ids {
            requests.push(
                DESTROY,
                libc::NLM_F_ACK,
                &request(family, CONNECTED, id),
                &[],
            );
        }
        let refused = socket.call(&requests)?;
        // One that has ended since the list was made is not there any more.
        let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
        if let Some(first) = refused.into_iter().find(|refused| !gone(&refused.reason)) {
            return Err(first.reason);
        }
    }
    Ok(())
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states u32, id.
fn request(family: u8, states: u32, id: &[u8]) -> Vec<u8> {
    let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    let mut bytes = vec![family, tcp, 0, 0];
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.extend_from_slice(id);
    bytes
}

/// The address at an offset of `struct inet_diag_sockid`, which has it in network order.
fn address(family: u8, id: &[u8], offset: usize) -> Option<IpAddr> {
    let bytes = id.get(offset..offset + 16)?;
    if i32::from(family) == libc::AF_INET {
        let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        return Some(IpAddr::from(bytes));
    }
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    Some(IpAddr::from(bytes).to_canonical())
}

fn is_outside(address: IpAddr, own: &[IpAddr]) -> bool {
    !address.is_loopback() && !own.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_within_the_guest_is_kept() {
        let own = ["198.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        for inside in ["127.0.0.1", "127.9.9.9", "::1", "198.18.0.2", "fd00::2"] {
            assert!(!is_outside(inside.parse().unwrap(), &own), "{inside}");
        }
        for outside in ["198.18.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(is_outside(outside.parse().unwrap(), &own), "{outside}");
        }
    }

    fn other_end(family: u8, id: &[u8]) -> Option<IpAddr> {
        address(family, id, DESTINATION)
    }

    #[test]
    fn the_other_end_is_read_from_a_reply() {
        let mut id = [0; ID_BYTES];
        id[4..8].copy_from_slice(&[10, 0, 0, 1]);
        id[DESTINATION..DESTINATION + 4].copy_from_slice(&[192, 0, 2, 7]);
        let inet = u8::try_from(libc::AF_INET).unwrap();
        assert_eq!(other_end(inet, &id), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(
            address(inet, &id, SOURCE),
            Some("10.0.0.1".parse().unwrap())
        );
        let inet6 = u8::try_from(libc::AF_INET6).unwrap();
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        id[DESTINATION..]
            .iter_mut()
            .zip(mapped)
            .for_each(|(to, from)| *to = from);
        assert_eq!(other_end(inet6, &id), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(other_end(inet6, &id[..30]), None);
    }
}
