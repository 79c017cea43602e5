//! Whether an address is one of this host's own, as the kernel sees it now.
//!
//! A list of the host's addresses is old as soon as the host moves to another network or takes a
//! new temporary IPv6 address. So the kernel is asked for the route of each new destination. It
//! answers in the same system call, and also for addresses that no list has: second addresses of
//! an interface, and networks that are routed to the host itself.
//!
//! Layout of a question: `[length: u32][26: u16][flags: u16][number: u32][port: u32]`, then
//! `[family: u8][address bits: u8][0: u8; 10]`, then `[length: u16][1: u16][address]`, all in the
//! machine's order. An answer begins in the same way, with the kind of route after seven bytes.
//! *Source:* netlink(7), rtnetlink(7).

use std::{net::IpAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

use crate::error::{Result, io};

/// The kinds of message that are used.
const ERROR: u16 = 2;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

/// The flag of a message that asks for something.
const REQUEST: u16 = 1;

/// Bytes of a message's header, and of a route's header after it.
const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;

/// The attribute with the destination of a route.
const DESTINATION: u16 = 1;

/// Kinds of route that end at this host.
const LOCAL: u8 = 2;
const ANYCAST: u8 = 4;

/// Answers of earlier questions that are read past.
const MAX_OLD: usize = 16;

/// A socket that asks the kernel for routes.
#[derive(Debug)]
pub(crate) struct Own {
    fd: OwnedFd,
    /// The number of the last question.
    number: u32,
}

impl Own {
    /// Opens the socket. It is about the network namespace of the calling thread.
    ///
    /// # Errors
    /// `Io` when the kernel gives none.
    pub(crate) fn new() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // The protocol of routes is 0, which is the one that is taken without another.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
        let fd = fd.map_err(|error| io("Could not open a socket for routes", error))?;
        Ok(Self { fd, number: 0 })
    }

    /// Whether `address` is the host's own. Where the kernel does not say, it is.
    pub(crate) fn has(&mut self, address: IpAddr) -> bool {
        self.number = self.number.wrapping_add(1);
        let question = question(address, self.number);
        let mut answer = [0; 4096];
        if send(&self.fd, &question, SendFlags::empty()).is_err() {
            return true;
        }
        for _ in 0..MAX_OLD {
            match recv(&self.fd, &mut answer[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    let bytes = &answer[..count.min(answer.len())];
                    if let Some(own) = read(bytes, self.number) {
                        return own;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
        true
    }
}

fn question(address: IpAddr, number: u32) -> Vec<u8> {
    let (family, bits, octets) = match address {
        IpAddr::V4(address) => (AddressFamily::INET, 32, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, 128, address.octets().to_vec()),
    };
    let attribute = if bits == 32 { 8u16 } else { 20 };
    let total = if bits == 32 { 36u32 } else { 48 };
    let mut bytes = total.to_ne_bytes().to_vec();
    bytes.extend(GET_ROUTE.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    // Both families have numbers of one byte.
    bytes.extend([u8::try_from(family.as_raw()).unwrap_or(0), bits]);
    bytes.extend([0; ROUTE_BYTES - 2]);
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(DESTINATION.to_ne_bytes());
    bytes.extend(octets);
    bytes
}

/// Whether the answer says that the address is the host's; none if it belongs to another question.
fn read(bytes: &[u8], number: u32) -> Option<bool> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [_, _, _, _, k0, k1, _, _, n0, n1, n2, n3, ..] = *header;
    if u32::from_ne_bytes([n0, n1, n2, n3]) != number {
        return None;
    }
    match u16::from_ne_bytes([k0, k1]) {
        NEW_ROUTE => Some(matches!(rest.get(7), None | Some(&LOCAL | &ANYCAST))),
        ERROR => Some(rest.first_chunk().is_none_or(|code| {
            // A connect fails with the same error.
            let no_route = [
                Errno::NETUNREACH,
                Errno::HOSTUNREACH,
                Errno::ACCESS,
                Errno::AFNOSUPPORT,
                Errno::OPNOTSUPP,
            ];
            let code = i32::from_ne_bytes(*code).saturating_neg();
            !no_route.iter().any(|error| error.raw_os_error() == code)
        })),
        _ => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::host_addresses;

    #[test]
    fn every_address_of_this_host_is_its_own_and_so_is_the_whole_loopback() {
        let mut own = Own::new().unwrap();
        for address in host_addresses().unwrap() {
            assert!(own.has(address), "{address}");
        }
        assert!(own.has("127.77.0.1".parse().unwrap()));
        // A network for documents is nobody's.
        assert!(!own.has("192.0.2.1".parse().unwrap()));
        assert!(!own.has("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn an_answer_that_cannot_be_read_closes_the_address() {
        let answer = |kind: u16, body: &[u8]| {
            let mut bytes = vec![0; 4];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(7u32.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(body);
            bytes
        };
        let error = |error: Errno| answer(ERROR, &(-error.raw_os_error()).to_ne_bytes());
        assert_eq!(
            read(&answer(NEW_ROUTE, &[0, 0, 0, 0, 0, 0, 0, 1]), 7),
            Some(false)
        );
        assert_eq!(
            read(&answer(NEW_ROUTE, &[0, 0, 0, 0, 0, 0, 0, LOCAL]), 7),
            Some(true)
        );
        assert_eq!(read(&answer(NEW_ROUTE, &[]), 7), Some(true));
        assert_eq!(read(&answer(3, &[]), 7), Some(true));
        assert_eq!(read(&error(Errno::NETUNREACH), 7), Some(false));
        assert_eq!(read(&error(Errno::NOMEM), 7), Some(true));
        assert_eq!(read(&error(Errno::NETUNREACH), 8), None);
        assert_eq!(read(&[0; 15], 0), None);
    }
}
