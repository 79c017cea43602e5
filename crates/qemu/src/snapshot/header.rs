//! What a state file says of itself, ahead of its stream.
//!
//! ```text
//! state: [magic: 8 bytes][header length: u32 LE][header: JSON][zeroes up to 4096][stream]
//! ```
//! Invariant: the header is written last; a state file without one was never finished.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Shape;

const MAGIC: [u8; 8] = *b"COFFERQS";
/// One page: the stream begins at a page of its own.
pub(super) const BYTES: u64 = 4096;
const PREFIX_BYTES: u64 = 12;
/// Devices take 200 KiB; a thousand times that is no state file.
pub(crate) const MAX_STREAM_BYTES: u64 = 256 << 20;

/// What a state file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) compatibility: String,
    pub(super) vcpus: u8,
    pub(super) memory_mib: u32,
    /// Whether each disk is read-only, in order.
    pub(super) disks: Vec<bool>,
    /// MTU of the network interface, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u16>,
    #[serde(default)]
    pub(super) file_channel: bool,
    stream_bytes: u64,
    stream_sha256: String,
}

/// Writes what `stream` writes behind a header for `shape`.
pub(super) fn write(
    state: &File,
    shape: &Shape,
    stream: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = state;
    file.seek(SeekFrom::Start(BYTES))?;
    let mut output = Hashing {
        inner: BufWriter::new(state),
        hash: Sha256::new(),
        count: 0,
    };
    stream(&mut output)?;
    output.flush()?;
    let header = Header {
        compatibility: shape.compatibility.clone(),
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        disks: shape.disks.clone(),
        mtu: shape.mtu,
        file_channel: shape.file_channel,
        stream_bytes: output.count,
        stream_sha256: digest(output.hash),
    };
    let text = serde_json::to_vec(&header)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    if u64::from(length) > BYTES - PREFIX_BYTES {
        return Err(io::Error::other("the header is too long"));
    }
    let mut head = length.to_le_bytes().to_vec();
    head.extend(text);
    state.write_all_at(&head, 8)?;
    state.write_all_at(&MAGIC, 0)
}

fn digest(hash: Sha256) -> String {
    Digest::from_sha256(hash.finalize().into()).to_string()
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The header of a file that has one.
pub(super) fn read(file: &File) -> io::Result<Header> {
    let mut head = vec![0; usize::try_from(BYTES).map_err(io::Error::other)?];
    file.read_exact_at(&mut head, 0)?;
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let rest = head.strip_prefix(&MAGIC).ok_or_else(damaged)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
    Ok(serde_json::from_slice(
        rest.get(..length).ok_or_else(damaged)?,
    )?)
}

/// Checks size and digest; leaves the file at its stream.
pub(super) fn check_stream(file: &mut File, header: &Header) -> io::Result<()> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let size = file.metadata()?.len();
    if header.stream_bytes > MAX_STREAM_BYTES || size != BYTES + header.stream_bytes {
        return Err(damaged("its size is not the one that it was written with"));
    }
    file.seek(SeekFrom::Start(BYTES))?;
    let mut stream = Vec::new();
    file.read_to_end(&mut stream)?;
    let mut hash = Sha256::new();
    hash.update(&stream);
    if digest(hash) != header.stream_sha256 {
        return Err(damaged(
            "its content is not the one that it was written with",
        ));
    }
    file.seek(SeekFrom::Start(BYTES)).map(drop)
}
