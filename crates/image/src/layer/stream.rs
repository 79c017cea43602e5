//! One layer as a verified stream of uncompressed bytes.
//!
//! Decompression runs on a thread of its own, a few buffers ahead; hashing and everything else
//! happens on the caller's. The stream is trusted for nothing: its length and its digest are
//! checked, the digest when the last byte has been read. How far it expands says nothing by
//! itself: half a gigabyte of zeros in a `lastlog` is common.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

use cofferdam_types::Digest;
use flate2::bufread::GzDecoder;
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Error, ErrorKind, Result},
    tree::Budget,
};

/// Size of one buffer of uncompressed bytes: one write to the image, and small beside the cache.
const BUFFER_BYTES: usize = 256 << 10;
/// Buffers that the decompressor may be ahead.
const BUFFERS_AHEAD: usize = 4;
/// Read-ahead on the compressed side.
const COMPRESSED_BUFFER_BYTES: usize = 64 << 10;
/// Largest zstd window, as the `zstd` program has it by default: 2^27 bytes. A frame that asks
/// for more memory is refused by the decoder.
const ZSTD_WINDOW_LOG_DEFAULT: u32 = 27;
/// Largest zstd window that `zstd --long` makes, where the host has the memory twice.
const ZSTD_WINDOW_LOG_MAX: u32 = 31;

/// How the bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

impl Compression {
    /// Tells the compression by the first bytes of a layer; what is neither gzip nor zstd is
    /// taken for a plain tar, which its header's checksum then confirms.
    #[must_use]
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            // RFC 1952 §2.3.1.
            [0x1f, 0x8b, ..] => Self::Gzip,
            // RFC 8878 §3.1.1, and §3.1.2 for a skippable frame.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The program of a compression that is known and not read, by the first bytes of a stream.
    /// *Source:* The .xz File Format §2.1.1.1; bzip2's `decompress.c`; LZ4 Frame Format §General
    /// Structure.
    #[must_use]
    pub fn unread_program(start: &[u8]) -> Option<&'static str> {
        match start {
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] if rest.starts_with(b"1AY&SY") => {
                Some("bzip2")
            }
            [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
            _ => None,
        }
    }
}

/// Longest start of a stream that tells its compression, in bytes: bzip2's.
pub(crate) const MAGIC_BYTES: usize = 10;

/// One layer to unpack.
pub struct LayerSource<'a> {
    /// The compressed bytes as stored.
    pub reader: Box<dyn Read + Send + 'a>,
    /// How they are compressed.
    pub compression: Compression,
    /// Digest of the uncompressed tar, from the image's config; verified.
    pub diff_id: Digest,
}

impl fmt::Debug for LayerSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerSource")
            .field("compression", &self.compression)
            .field("diff_id", &self.diff_id)
            .finish_non_exhaustive()
    }
}

/// The uncompressed bytes of one layer, counted and hashed as they are read.
pub(crate) struct LayerStream<'a, 'b> {
    filled: Receiver<Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    hasher: Sha256,
    pub(crate) budget: &'a mut Budget<'b>,
    progress: &'a dyn Fn(u64),
}

impl LayerStream<'_, '_> {
    /// The bytes that come next; empty only at the end of the layer.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        while self.position == self.current.len() {
            // A closed channel is the decompressor's orderly end: it reports errors as items.
            let Ok(next) = self.filled.recv() else {
                return Ok(&[]);
            };
            let next = next?;
            self.hasher.update(&next);
            self.budget.bytes(next.len() as u64)?;
            (self.progress)(self.budget.total_bytes());
            let used = std::mem::replace(&mut self.current, next);
            self.position = 0;
            // The decompressor may have finished and gone; then the buffer is just dropped.
            let _ = self.empty.send(used);
        }
        Ok(&self.current[self.position..])
    }

    /// Marks `count` of the bytes that [`Self::fill`] gave as read.
    pub(crate) fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.current.len());
    }

    /// Reads on to the end and compares the digest.
    fn verify(mut self, expected: Digest) -> Result<()> {
        loop {
            let rest = self.fill()?.len();
            if rest == 0 {
                break;
            }
            self.consume(rest);
        }
        let found = Digest::from_sha256(self.hasher.finalize().into());
        if found != expected {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                format!("A layer's content is `{found}` where the image says `{expected}`"),
            ));
        }
        Ok(())
    }
}

/// Runs `read` over the uncompressed bytes of `layer` and then verifies the digest.
///
/// Blocks in `layer.reader`; on an error of `read` the decompressor stops at its next buffer.
pub(crate) fn with_stream<'b>(
    layer: LayerSource<'_>,
    budget: &mut Budget<'b>,
    progress: &dyn Fn(u64),
    read: impl FnOnce(&mut LayerStream<'_, 'b>) -> Result<()>,
) -> Result<()> {
    let LayerSource {
        reader,
        compression,
        diff_id,
    } = layer;
    thread::scope(|scope| {
        let (fill, filled) = sync_channel(BUFFERS_AHEAD);
        let (empty, refill) = channel();
        scope.spawn(move || decompress(reader, compression, &fill, &refill));
        let mut stream = LayerStream {
            filled,
            empty,
            current: Vec::new(),
            position: 0,
            hasher: Sha256::new(),
            budget,
            progress,
        };
        // An early return drops the receiver, which ends the decompressor at its next send.
        read(&mut stream)?;
        stream.verify(diff_id)
    })
}

/// The decompressor thread: sends full buffers until the end, an error, or a gone receiver.
fn decompress(
    reader: Box<dyn Read + Send + '_>,
    compression: Compression,
    fill: &SyncSender<Result<Vec<u8>>>,
    refill: &Receiver<Vec<u8>>,
) {
    let reader = BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, reader);
    let mut decoder = match Decoder::new(reader, compression) {
        Ok(decoder) => decoder,
        Err(error) => {
            let _ = fill.send(Err(layer_error(error)));
            return;
        }
    };
    loop {
        let mut buffer = refill.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_BYTES, 0);
        let item = fill_buffer(&mut decoder, &mut buffer)
            .map_err(layer_error)
            .map(|len| {
                buffer.truncate(len);
                buffer
            });
        let last = item
            .as_ref()
            .is_ok_and(|buffer| buffer.len() < BUFFER_BYTES);
        let failed = item.is_err();
        if fill.send(item).is_err() || last || failed {
            return;
        }
    }
}

fn fill_buffer(decoder: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match decoder.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Sorts what a reader or decoder reports into this crate's kinds.
fn layer_error(error: io::Error) -> Error {
    // A reader of this crate (one that verifies, say) has sorted its failure already.
    let error = match error.downcast::<Error>() {
        Ok(sorted) => return sorted,
        Err(error) => error,
    };
    let (kind, what) = match error.kind() {
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::UnexpectedEof
        // The zstd decoder reports its own errors as `Other`.
        | io::ErrorKind::Other => (ErrorKind::Corrupt, "A layer cannot be decompressed"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Permission, "A layer cannot be read"),
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "A layer is missing"),
        _ => (ErrorKind::Io, "A layer cannot be read"),
    };
    Error::new(kind, what).because(error)
}

type Source<'a> = BufReader<Box<dyn Read + Send + 'a>>;

enum Decoder<'a> {
    Plain(Source<'a>),
    /// `None` once the last member is done.
    Gzip(Option<Box<GzDecoder<Source<'a>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Source<'a>>>),
}

impl<'a> Decoder<'a> {
    fn new(source: Source<'a>, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Some(Box::new(GzDecoder::new(source)))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(zstd_window_log(available_bytes()))?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }
}

/// The largest window for a host with so much memory to spare.
fn zstd_window_log(available_bytes: u64) -> u32 {
    (available_bytes / 2)
        .checked_ilog2()
        .unwrap_or_default()
        .clamp(ZSTD_WINDOW_LOG_DEFAULT, ZSTD_WINDOW_LOG_MAX)
}

/// Memory that this host has to spare, in bytes; 0 where that is unknown. proc_meminfo(5).
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Gzip(member) => read_members(member, buffer),
        }
    }
}

/// Reads gzip members one after the other (RFC 1952 §2.2), as indexed layers are written.
fn read_members(
    member: &mut Option<Box<GzDecoder<Source<'_>>>>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    while let Some(decoder) = member {
        let len = decoder.read(buffer)?;
        if len > 0 || buffer.is_empty() {
            return Ok(len);
        }
        let Some(ended) = member.take() else { break };
        let mut source = ended.into_inner();
        match source.fill_buf()?.first() {
            None => {}
            Some(0) => skip_zeros(&mut source)?,
            Some(_) => *member = Some(Box::new(GzDecoder::new(source))),
        }
    }
    Ok(0)
}

/// Padding after the last member is harmless (the digest covers the content); other bytes mean
/// that the file is not what it claims to be.
fn skip_zeros(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes after the end of the gzip stream",
            ));
        }
        let len = bytes.len();
        source.consume(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_told_by_its_magic() {
        assert_eq!(Compression::sniff(&[0x1f, 0x8b, 8]), Compression::Gzip);
        assert_eq!(
            Compression::sniff(&[0x28, 0xb5, 0x2f, 0xfd]),
            Compression::Zstd
        );
        assert_eq!(
            Compression::sniff(&[0x51, 0x2a, 0x4d, 0x18]),
            Compression::Zstd
        );
        assert_eq!(Compression::sniff(b"etc/passwd\0"), Compression::None);
        assert_eq!(Compression::sniff(b""), Compression::None);
    }

    #[test]
    fn compressions_that_are_not_read_are_known_by_name() {
        let name = Compression::unread_program;
        assert_eq!(name(b"\xfd7zXZ\0\0"), Some("xz"));
        assert_eq!(name(b"BZh91AY&SY"), Some("bzip2"));
        // A tar whose first file has such a name.
        assert_eq!(name(b"BZh9/file\0"), None);
        assert_eq!(name(&[0x1f, 0x8b]), None);
    }

    #[test]
    fn large_windows_need_the_memory_twice() {
        assert_eq!(zstd_window_log(0), 27);
        assert_eq!(zstd_window_log(2 << 29), 29);
        assert_eq!(zstd_window_log(4 << 31), 31);
    }
}
