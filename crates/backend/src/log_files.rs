//! The files of a machine's logs: the newest part, and one older part beside it.
//!
//! A guest prints what it likes, so both are bounded, and bytes become text on reading only.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Size in bytes at which a log is put aside. Two files of it hold a kernel's boot messages and an
/// oops many times over, and a host with a thousand machines loses at most 4 GiB to floods.
pub const ROTATE_BYTES: u64 = 1 << 20;

/// How much a file may be larger than [`ROTATE_BYTES`]: the last read of a writer.
const SLACK_BYTES: u64 = 64 << 10;

/// Where the older part of the log at `path` is.
#[must_use]
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The last `count` lines of a log, from its older file too.
///
/// # Errors
/// The file system's; a log that was never made has no lines.
pub fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut bytes = read_end(&older(path))?;
    bytes.extend(read_end(path)?);
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(count);
    Ok(lines[first..].iter().map(|&line| line.to_owned()).collect())
}

/// The file's last bytes.
fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let limit = ROTATE_BYTES + SLACK_BYTES;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
