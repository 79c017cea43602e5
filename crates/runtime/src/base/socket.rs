//! Unix sockets at paths of any length.
//!
//! An address holds 107 bytes of path (unix(7)), and a user's home may lie deeper. A longer path
//! is given by the number of its open directory, which the kernel resolves at once.

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

use tokio::net::{UnixListener, UnixStream};

/// Bytes of `sun_path` without the zero at its end.
const MAX_PATH_BYTES: usize = 107;

/// Listens at `path`.
///
/// # Errors
/// Those of bind(2), and of its directory.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match short(path)? {
        None => UnixListener::bind(path),
        Some((_dir, short)) => UnixListener::bind(short),
    }
}

/// Connects to who listens at `path`.
///
/// # Errors
/// Those of connect(2), and of its directory.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    match short(path)? {
        None => UnixStream::connect(path).await,
        Some((_dir, short)) => UnixStream::connect(short).await,
    }
}

/// A short path to the same, good for as long as the directory is open; none for one that is.
fn short(path: &Path) -> io::Result<Option<(File, String)>> {
    if path.as_os_str().len() <= MAX_PATH_BYTES {
        return Ok(None);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(parent)?;
    // Sockets have names of this program's own choice.
    let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let short = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    Ok(Some((dir, short)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_may_lie_at_a_path_of_any_length() {
        let home = tempfile::tempdir().unwrap();
        for length in [1, 60, 200] {
            let dir = home.path().join("d".repeat(length));
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("supervisor.sock");
            assert_eq!(
                connect(&path).await.unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            let listener = bind(&path).unwrap();
            assert!(path.exists());
            let (one, other) = tokio::join!(connect(&path), listener.accept());
            one.unwrap();
            other.unwrap();
            assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }
}
