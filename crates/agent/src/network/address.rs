//! The MAC address of the interface: all of it that most starts change.
//!
//! An `ioctl` on a socket that the template has opened already. The same by rtnetlink takes a
//! socket, a request and an answer, whose code an emulated host would translate at each start.
//!
//! *Source:* netdevice(7), `SIOCSIFHWADDR`.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A socket through which the kernel takes requests about interfaces.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// # Errors
    /// The kernel's.
    pub(super) fn open() -> io::Result<Self> {
        let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
        Ok(Self(socket_with(family, SocketType::DGRAM, flags, None)?))
    }

    /// Gives the interface `eth0` a MAC address. It stays up.
    ///
    /// # Errors
    /// The kernel's; the device may refuse the address.
    pub(super) fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        // SAFETY: `ifreq` is plain data, and all of it may be zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"eth0") {
            *to = from.cast_signed();
        }
        let mut address = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: [0; 14],
        };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_hwaddr = address;
        // SAFETY: the descriptor is open for as long as `self` lives, and the kernel reads one
        // `ifreq` from the pointer, which is one that lives until the call returns.
        let set =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCSIFHWADDR, &raw const request) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
