//! Tar entries from a [`LayerStream`]: ustar, PAX, GNU, star and old V7 archives.
//!
//! Memory is bounded: one header, its extensions (at most [`MAX_EXTENSION_BYTES`] each) and the
//! map of a sparse file; data is handed on in the stream's own buffers.
//! Where archives leave room (two end blocks or none, unknown records, sizes of entries that have
//! no data), this reads what Go's `archive/tar` reads, since image tools are built on that.
//! *Source:* POSIX.1-2017 pax; GNU tar manual, "Tar Internals".

mod header;
mod number;
mod pax;
mod sparse;

use header::{BLOCK_BYTES, Dialect, Header};
use pax::PaxHeader;
pub(crate) use sparse::Part;

use super::{corrupt, quoted, stream::LayerStream};
use crate::{
    error::{Error, ErrorKind, Result},
    tree::{Timestamp, too_large},
};

/// Largest PAX header, long name or long link.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// What an entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A regular file; the parts are those of a sparse file.
    File {
        size: u64,
        parts: Option<Vec<Part>>,
    },
    Directory,
    /// Another name for the file that `link` names.
    HardLink,
    Symlink,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// One entry, without its data.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    /// Full names and values; a later one of the same name counts.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other.
pub(super) struct TarReader<'s, 'a, 'b> {
    pub(super) stream: &'s mut LayerStream<'a, 'b>,
    /// Bytes of the current entry's data that are still to come.
    data_left: u64,
    /// Bytes of padding after them.
    padding: u64,
}

/// Long names and records that wait for the entry that they belong to.
#[derive(Default)]
struct Extensions {
    pax: PaxHeader,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<'s, 'a, 'b> TarReader<'s, 'a, 'b> {
    pub(super) fn new(stream: &'s mut LayerStream<'a, 'b>) -> Self {
        Self {
            stream,
            data_left: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end of the archive. Skips what is left of the last one.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut is_announced = false;
        loop {
            let block = self.next_header()?;
            let header = block.as_ref().map(Header::parse).transpose()?.flatten();
            let Some(header) = header else {
                if is_announced {
                    return Err(corrupt("A tar archive ends where it announced an entry"));
                }
                return self.end(block.is_some()).map(|()| None);
            };
            is_announced |= matches!(header.kind(), b'x' | b'L' | b'K');
            match header.kind() {
                b'x' => extensions.pax = PaxHeader::parse(&self.extension(&header)?)?,
                // Defaults for all entries: no image tool writes or heeds them, `git archive`
                // leaves one with its commit.
                b'g' => drop(PaxHeader::parse(&self.extension(&header)?)?),
                b'L' => extensions.path = Some(self.long_name(&header)?),
                b'K' => extensions.link = Some(self.long_name(&header)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Gives the current entry's data to `sink` piece by piece.
    pub(super) fn read_data(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let len = self.data_left;
        self.read_part(len, sink)
    }

    /// Gives the next `len` bytes of the current entry's data to `sink`.
    pub(super) fn read_part(
        &mut self,
        len: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut left = len.min(self.data_left);
        self.data_left -= left;
        while left > 0 {
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                return Err(truncated());
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            sink(&bytes[..count])?;
            self.stream.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Skips to the next header. An archive may end there without an end mark.
    fn next_header(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        self.read_data(&mut |_| Ok(()))?;
        let padding = std::mem::take(&mut self.padding);
        if self.stream.fill()?.is_empty() {
            return Ok(None);
        }
        self.data_left = padding;
        self.read_data(&mut |_| Ok(()))?;
        if self.stream.fill()?.is_empty() {
            return Ok(None);
        }
        self.block().map(Some)
    }

    /// After one block of zeros there may be another one or the end of the stream.
    fn end(&mut self, after_zeros: bool) -> Result<()> {
        if after_zeros
            && !self.stream.fill()?.is_empty()
            && self.block()?.iter().any(|&byte| byte != 0)
        {
            return Err(corrupt("A tar archive goes on after a block of zeros"));
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK_BYTES]> {
        let mut block = [0; BLOCK_BYTES];
        let mut len = 0;
        while len < BLOCK_BYTES {
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                return Err(truncated());
            }
            let count = bytes.len().min(BLOCK_BYTES - len);
            block[len..len + count].copy_from_slice(&bytes[..count]);
            self.stream.consume(count);
            len += count;
        }
        Ok(block)
    }

    /// A block of the current entry's data, for maps that stand in front of it.
    fn data_block(&mut self) -> Result<[u8; BLOCK_BYTES]> {
        self.data_left = self
            .data_left
            .checked_sub(BLOCK_BYTES as u64)
            .ok_or_else(|| corrupt("A sparse map is cut short"))?;
        self.block()
    }

    /// The whole payload of an extension header.
    fn extension(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let size = size_of_data(header)?;
        if size > MAX_EXTENSION_BYTES {
            return Err(too_large(format!(
                "A tar extension header has more than {MAX_EXTENSION_BYTES} bytes"
            )));
        }
        self.begin_data(size);
        let mut payload = Vec::new();
        self.read_data(&mut |bytes| {
            payload.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(payload)
    }

    fn long_name(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let payload = self.extension(header)?;
        Ok(header::until_nul(&payload).to_vec())
    }

    fn begin_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions) -> Result<Entry> {
        let Extensions {
            mut pax,
            path,
            link,
        } = extensions;
        let pax_path = pax.sparse.name.take().or_else(|| pax.path.take());
        let path = path.or(pax_path).unwrap_or_else(|| header.path());
        let link = link
            .or_else(|| pax.link.take())
            .unwrap_or_else(|| header.link().to_vec());
        let name = || quoted(&path);
        let in_entry = |error: Error| {
            Error::new(
                error.kind(),
                format!("The layer's entry {} is broken", name()),
            )
            .because(error)
        };
        let kind = self.entry_kind(header, &mut pax, &path).map_err(in_entry)?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Timestamp {
                seconds: header.mtime().map_err(in_entry)?,
                nanos: 0,
            },
        };
        let mode = header.mode().map_err(in_entry)? & 0o7777;
        Ok(Entry {
            mode: u16::try_from(mode).unwrap_or_default(),
            uid: owner(pax.uid.map_or_else(|| header.uid(), Ok).map_err(in_entry)?),
            gid: owner(pax.gid.map_or_else(|| header.gid(), Ok).map_err(in_entry)?),
            mtime,
            xattrs: pax.xattrs,
            kind,
            path,
            link,
        })
    }

    /// The kind of an entry; starts its data.
    fn entry_kind(
        &mut self,
        header: &Header<'_>,
        pax: &mut PaxHeader,
        path: &[u8],
    ) -> Result<EntryKind> {
        Ok(match header.kind() {
            // Before POSIX a slash at the end told a directory.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            // 7 is a contiguous file, which POSIX lets be a regular one.
            0 | b'0' | b'7' => self.file(header, pax)?,
            b'S' if header.dialect() == Dialect::Gnu => self.gnu_sparse_file(header, pax)?,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => {
                let (major, minor) = device_numbers(header)?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device_numbers(header)?;
                EntryKind::BlockDevice { major, minor }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "The tar entry type `{}` is not supported",
                        other.escape_ascii()
                    ),
                ));
            }
        })
    }

    fn file(&mut self, header: &Header<'_>, pax: &mut PaxHeader) -> Result<EntryKind> {
        let stored = pax.size.map_or_else(|| size_of_data(header), Ok)?;
        self.begin_data(stored);
        let Some((source, size)) = pax.sparse.finish()? else {
            return Ok(EntryKind::File {
                size: stored,
                parts: None,
            });
        };
        let map = match source {
            sparse::MapSource::Known(map) => map,
            sparse::MapSource::InData => sparse::text_map(|| self.data_block())?,
        };
        let parts = sparse::parts(&map, size, self.data_left)?;
        Ok(EntryKind::File {
            size,
            parts: Some(parts),
        })
    }

    fn gnu_sparse_file(&mut self, header: &Header<'_>, pax: &PaxHeader) -> Result<EntryKind> {
        let stored = pax.size.map_or_else(|| size_of_data(header), Ok)?;
        let (map, size) = sparse::gnu_map(header, || self.block())?;
        self.begin_data(stored);
        let parts = sparse::parts(&map, size, stored)?;
        Ok(EntryKind::File {
            size,
            parts: Some(parts),
        })
    }
}

fn size_of_data(header: &Header<'_>) -> Result<u64> {
    u64::try_from(header.size()?).map_err(|_| corrupt("A tar entry has a negative size"))
}

/// Device numbers as Linux can hold them (include/linux/kdev_t.h: 12 and 20 bits).
fn device_numbers(header: &Header<'_>) -> Result<(u32, u32)> {
    let (major, minor) = header.device()?;
    let fits = |number: i64, bits: u32| u32::try_from(number).ok().filter(|&n| n >> bits == 0);
    match (fits(major, 12), fits(minor, 20)) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err(corrupt(format!(
            "The device number {major}:{minor} is out of range"
        ))),
    }
}

/// An owner as chown(2) reads the number: its low 32 bits, and all of them set for no change, which
/// is root's. Archives of macOS have the user -2.
fn owner(id: i64) -> u32 {
    let [b0, b1, b2, b3, ..] = id.to_le_bytes();
    match u32::from_le_bytes([b0, b1, b2, b3]) {
        u32::MAX => 0,
        id => id,
    }
}

fn truncated() -> Error {
    corrupt("A layer's tar archive is cut short")
}
