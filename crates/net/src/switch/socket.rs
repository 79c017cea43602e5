//! The sockets of a network's directory.

use std::{
    fs, io,
    os::fd::OwnedFd,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getpeername, listen, socket_with,
    sockopt::{set_socket_send_buffer_size, socket_send_buffer_size},
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Bytes that the kernel holds for a member that does not read; it gives a user less by default.
const SEND_BYTES: usize = 1 << 20;

/// A socket at which a member is reached. Its name goes with it, unless another has the name now.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    dir: PathBuf,
    path: PathBuf,
    /// Device and inode of the name. The kernel keeps the inode as long as the socket.
    file: (u64, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A stack that ended without this leaves a name at which nobody listens.
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Listens for the member `number`. A name that a killed stack has left is replaced.
    pub(super) fn bind(dir: &Path, number: u32) -> io::Result<Self> {
        let path = dir.join(number.to_string());
        let fd = seqpacket()?;
        replace(&fd, &path)?;
        listen(&fd, BACKLOG)?;
        Ok(Self {
            fd,
            dir: dir.to_owned(),
            file: file_at(&path)?,
            path,
        })
    }

    /// The next connection, and the member that made it; `None` if its name says no member.
    pub(super) fn accept(&self, own: u32) -> io::Result<Option<(OwnedFd, u32)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = accept_with(&self.fd, flags)?;
        let from = getpeername(&fd)?.and_then(|any| SocketAddrUnix::try_from(any).ok());
        let from = from.and_then(|address| {
            let path =
                Path::new(std::ffi::OsStr::from_bytes(address.path()?.to_bytes())).to_owned();
            let name = path.strip_prefix(&self.dir).ok()?.to_str()?;
            let (from, to) = name.split_once('-')?;
            let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
            (to == own && from != own).then_some(from)
        });
        Ok(from.map(|from| (fd, from)))
    }
}

/// A connection of the member `own` to the member `peer`. It does not block.
pub(super) fn connect_to(dir: &Path, own: u32, peer: u32) -> io::Result<OwnedFd> {
    let there = dir.join(peer.to_string());
    // Most packets to nobody end here.
    fs::symlink_metadata(&there)?;
    let fd = seqpacket()?;
    let here = dir.join(format!("{own}-{peer}"));
    replace(&fd, &here)?;
    let connected = connect(&fd, &SocketAddrUnix::new(&there)?);
    // The kernel keeps the name with the socket.
    let _ = fs::remove_file(&here);
    connected?;
    if socket_send_buffer_size(&fd)? < SEND_BYTES {
        // The kernel gives as much as the host allows.
        let _ = set_socket_send_buffer_size(&fd, SEND_BYTES);
    }
    Ok(fd)
}

pub(super) fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Binds a socket to a name, also where an old one has it.
fn replace(fd: &OwnedFd, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(bind(fd, &SocketAddrUnix::new(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_listener_leaves_the_name_of_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = Listener::bind(dir.path(), 7).unwrap();
        let new = Listener::bind(dir.path(), 7).unwrap();
        drop(old);
        connect_to(dir.path(), 8, 7).unwrap();
        assert_eq!(new.accept(7).unwrap().map(|(_, from)| from), Some(8));
        drop(new);
        assert!(!dir.path().join("7").exists());
    }
}
