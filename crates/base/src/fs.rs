//! Files that are there whole or not at all.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

/// Makes `path` and its parents, private to the user (mode 0700).
///
/// # Errors
/// The file system's.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A path beside `path` for a file that is not yet published.
///
/// Unique within this process by a counter and between processes by the process id; leftovers of
/// killed processes start with `.tmp-` and may be removed by whoever holds the store's lock.
#[must_use]
pub fn staging_path(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".tmp-{}-{number}-{name}", std::process::id()))
}

/// Whether a file name is that of a [`staging_path`], and which process made it.
#[must_use]
pub fn staging_owner(name: &str) -> Option<u32> {
    name.strip_prefix(".tmp-")?.split('-').next()?.parse().ok()
}

/// Writes a file that readers see whole or not at all. Mode 0600.
///
/// The data is flushed to the disk before the name appears, so that a power cut leaves the old
/// or the new content.
///
/// # Errors
/// The file system's; nothing is left behind.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    publish_with(path, true, |file| file.write_all(content))
}

/// Like [`publish`] without waiting for the disk: for state that is worthless after a reboot.
///
/// # Errors
/// The file system's; nothing is left behind.
pub fn publish_volatile(path: &Path, content: &[u8]) -> io::Result<()> {
    publish_with(path, false, |file| file.write_all(content))
}

fn publish_with(
    path: &Path,
    durable: bool,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let staging = staging_path(path);
    let result = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staging)?;
        write(&mut file)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(&staging, path)
    })();
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&staging);
    }
    result
}

/// Flushes the names in a directory to the disk, so that they outlive a power cut.
///
/// # Errors
/// The file system's.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Publishes `value` as JSON.
///
/// # Errors
/// The file system's.
pub fn publish_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    publish_with(path, durable, |file| file.write_all(&text))
}

/// Reads a JSON file of at most `limit` bytes.
///
/// # Errors
/// The file system's; `InvalidData` when it is too large or no such JSON.
pub fn read_json<T: DeserializeOwned>(path: &Path, limit: u64) -> io::Result<T> {
    Ok(serde_json::from_slice(&read_bounded(path, limit)?)?)
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// The file system's; `InvalidData` when it is larger.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("file is larger than {limit} bytes"),
        ));
    }
    Ok(content)
}

/// Removes a file; it is no error if it is already gone.
///
/// # Errors
/// The file system's.
pub fn remove_file_if_present(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

/// Removes a directory with all in it; it is no error if it is already gone.
///
/// # Errors
/// The file system's.
pub fn remove_dir_if_present(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_replaces_whole_files_and_leaves_no_staging() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        publish(&path, b"one").unwrap();
        publish_volatile(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_publish_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        publish(&path, b"old").unwrap();
        let error = publish_with(&path, true, |_| Err(io::Error::other("no space")));
        assert!(error.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bounded_read_refuses_a_larger_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
        assert_eq!(
            read_bounded(&path, 4).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn staging_names_tell_their_process() {
        let staging = staging_path(Path::new("/x/file"));
        let name = staging.file_name().unwrap().to_str().unwrap();
        assert_eq!(staging_owner(name), Some(std::process::id()));
        assert_eq!(staging_owner("file"), None);
    }
}
