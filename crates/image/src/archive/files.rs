//! A tar stream read once, front to back: every file becomes a blob in the work directory.
//!
//! Names of the archive live in memory only and never become paths on the host. Docker writes
//! `manifest.json` last, so that nothing is known of a file when it comes by; what turns out not
//! to be wanted goes with the work directory.
//! *Source:* POSIX.1-2017 pax; GNU tar manual, "Tar Internals"; RFC 1952; RFC 8878.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read},
};

use cofferdam_types::Digest;
use tar::{EntryType, Header};

use crate::{
    error::{Error, ErrorKind, Result, host_error},
    layer::{Compression, MAGIC_BYTES},
    manifest::shown,
    progress::{Phase, Progress, ProgressEvent},
    store::ingest::{Ingest, copy_blob},
    tree::Limits,
};

/// Unit of a tar, POSIX pax §"ustar Interchange Format".
const BLOCK_BYTES: usize = 512;
/// Files of one archive; an image has some three for each layer.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of one extended header; the names here are short.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// Links that are followed from one name.
const LINKS_MAX: usize = 8;
const READ_AHEAD_BYTES: usize = 256 << 10;

/// What an archive holds, by name.
#[derive(Debug, Default)]
pub(crate) struct ArchiveFiles {
    entries: HashMap<String, ArchiveFile>,
}

#[derive(Debug)]
enum ArchiveFile {
    File(Digest, u64),
    Link(String),
}

impl ArchiveFiles {
    /// Reads a whole archive into `ingest`.
    pub(crate) fn read(
        ingest: &Ingest,
        source: Box<dyn Read + Send>,
        total_bytes: Option<u64>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (mut source, compression) = decompressed(source)?;
        progress.event(ProgressEvent::Phase {
            phase: Phase::Reading,
            // What is counted is uncompressed.
            total_bytes: total_bytes.filter(|_| compression == Compression::None),
        });
        let mut files = Self::default();
        let mut extension = Extension::default();
        let mut done_bytes = 0;
        let mut first = true;
        while let Some(header) = next_header(&mut *source, std::mem::take(&mut first))? {
            let kind = header.entry_type();
            let size = header
                .entry_size()
                .map_err(|e| corrupt("An entry has no valid size").because(e))?;
            if matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            ) {
                extension.take(kind, &read_extension(&mut *source, size)?)?;
                continue;
            }
            let Extension {
                path,
                link,
                size: long_size,
            } = std::mem::take(&mut extension);
            let size = long_size.unwrap_or(size);
            let path = clean(&path.unwrap_or_else(|| lossy(&header.path_bytes())));
            if files.entries.len() >= ENTRIES_MAX {
                return Err(too_large(format!(
                    "The archive has more than {ENTRIES_MAX} entries"
                )));
            }
            let entry = match kind {
                EntryType::Regular | EntryType::Continuous => {
                    let mut content = ExactReader {
                        source: &mut *source,
                        left: size,
                    };
                    let (digest, _) = copy_blob(ingest, &mut content, stream_error, |bytes| {
                        done_bytes += bytes;
                        progress.event(ProgressEvent::PhaseAdvanced { done_bytes });
                    })?;
                    skip(&mut *source, padding(size))?;
                    ArchiveFile::File(digest, size)
                }
                EntryType::Symlink | EntryType::Link => {
                    let target = link
                        .unwrap_or_else(|| lossy(&header.link_name_bytes().unwrap_or_default()));
                    let hard = kind == EntryType::Link;
                    ArchiveFile::Link(if hard {
                        clean(&target)
                    } else {
                        resolve(&path, &target)
                    })
                }
                EntryType::Directory => continue,
                _ => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("The archive has the special file {}", shown(&path)),
                    ));
                }
            };
            files.entries.insert(path, entry);
            if done_bytes > Limits::default().max_total_bytes {
                return Err(too_large("The archive is larger than any image may be"));
            }
        }
        // A pipe's writer must not die of what follows the end blocks.
        skip_rest(&mut *source)?;
        Ok(files)
    }

    /// Digest and size of the file that `name` means, after links.
    pub(crate) fn find(&self, name: &str) -> Option<(Digest, u64)> {
        let mut name = clean(name);
        for _ in 0..=LINKS_MAX {
            match self.entries.get(&name)? {
                ArchiveFile::File(digest, size) => return Some((*digest, *size)),
                ArchiveFile::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What extended headers say of the entry that follows them.
#[derive(Debug, Default)]
struct Extension {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Extension {
    fn take(&mut self, kind: EntryType, content: &[u8]) -> Result<()> {
        let text = || lossy(content.split(|b| *b == 0).next().unwrap_or_default());
        match kind {
            EntryType::GNULongName => self.path = Some(text()),
            EntryType::GNULongLink => self.link = Some(text()),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(content) {
                    let record =
                        record.map_err(|e| corrupt("An extended header is broken").because(e))?;
                    let value = lossy(record.value_bytes());
                    match record.key_bytes() {
                        b"path" => self.path = Some(value),
                        b"linkpath" => self.link = Some(value),
                        b"size" => {
                            let size = value
                                .parse()
                                .map_err(|_| corrupt("An entry has no valid size"))?;
                            self.size = Some(size);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn decompressed(source: Box<dyn Read + Send>) -> Result<(Box<dyn Read>, Compression)> {
    let mut source = BufReader::with_capacity(READ_AHEAD_BYTES, source);
    let start = fill_to(&mut source, MAGIC_BYTES as u64)?;
    refuse_unknown(&start)?;
    let source = io::Cursor::new(start.clone()).chain(source);
    let compression = Compression::sniff(&start);
    let source: Box<dyn Read> = match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(READ_AHEAD_BYTES, source),
        )),
        Compression::Zstd => Box::new(zstd::Decoder::new(source).map_err(stream_error)?),
    };
    Ok((source, compression))
}

/// Refuses compressions that are known and not supported, by their first bytes.
fn refuse_unknown(start: &[u8]) -> Result<()> {
    let Some(program) = Compression::unread_program(start) else {
        return Ok(());
    };
    let what = format!(
        "Compression by {program} is not supported; gzip, zstd and plain archives can be read"
    );
    let hint = format!("Unpack it on the way: `{program} -dc FILE | coffer load`");
    Err(Error::new(ErrorKind::Unsupported, what).hint(hint))
}

/// The first `count` bytes, or all if there are fewer.
fn fill_to(source: &mut dyn Read, count: u64) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    source
        .take(count)
        .read_to_end(&mut start)
        .map_err(stream_error)?;
    Ok(start)
}

/// The next header; `None` at the end blocks or the end of the stream. What has no `first` one is
/// no archive.
fn next_header(source: &mut dyn Read, first: bool) -> Result<Option<Header>> {
    let mut header = Header::new_old();
    let start = fill_to(source, BLOCK_BYTES as u64)?;
    if start.is_empty() || start.iter().all(|b| *b == 0) && start.len() == BLOCK_BYTES {
        return Ok(None);
    }
    if start.len() < BLOCK_BYTES && first {
        return Err(no_archive());
    }
    if start.len() < BLOCK_BYTES {
        return Err(corrupt("The archive ends within an entry"));
    }
    header.as_mut_bytes().copy_from_slice(&start);
    // The checksum is over the header with its own field as blanks: bytes 148 to 155.
    let sum: u32 = start
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u32::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    if header.cksum().ok() != Some(sum) {
        return Err(no_archive());
    }
    Ok(Some(header))
}

fn read_extension(source: &mut dyn Read, size: u64) -> Result<Vec<u8>> {
    if size > EXTENSION_BYTES_MAX {
        return Err(too_large("An extended header of the archive is too large"));
    }
    let mut content = Vec::new();
    let mut exact = ExactReader { source, left: size };
    exact.read_to_end(&mut content).map_err(stream_error)?;
    skip(source, padding(size))?;
    Ok(content)
}

/// Yields exactly `left` bytes; the end of the source before that is an error.
struct ExactReader<'a> {
    source: &'a mut dyn Read,
    left: u64,
}

impl Read for ExactReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn skip(source: &mut dyn Read, count: u64) -> Result<()> {
    io::copy(
        &mut ExactReader {
            source,
            left: count,
        },
        &mut io::sink(),
    )
    .map_err(stream_error)?;
    Ok(())
}

fn skip_rest(source: &mut dyn Read) -> Result<()> {
    /// GNU tar pads to records of 10 KiB; more is no tar's.
    const TRAILER_BYTES_MAX: u64 = 1 << 20;
    io::copy(&mut source.take(TRAILER_BYTES_MAX), &mut io::sink()).map_err(stream_error)?;
    Ok(())
}

const fn padding(size: u64) -> u64 {
    (BLOCK_BYTES as u64 - size % BLOCK_BYTES as u64) % BLOCK_BYTES as u64
}

/// The target of a symbolic link at `path`, from the archive's root.
fn resolve(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return clean(target);
    }
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    clean(&format!("{dir}/{target}"))
}

/// A name without `.`, `..`, doubled and leading slashes; only ever a key.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stream_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("The archive ends too early").because(error),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            corrupt("The archive's compression is broken").because(error)
        }
        _ => host_error("Could not read the archive", error),
    }
}

fn no_archive() -> Error {
    corrupt("The file is no docker archive and no OCI layout: it is not a tar")
        .hint("Write one with `docker save`, `podman save` or `skopeo copy`")
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn too_large(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::TooLarge, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_keys_that_cannot_climb() {
        assert_eq!(clean("./a//b/../c"), "a/c");
        assert_eq!(clean("../../etc/passwd"), "etc/passwd");
        assert_eq!(
            resolve("id/layer.tar", "../other/layer.tar"),
            "other/layer.tar"
        );
        assert_eq!(resolve("id/layer.tar", "/x"), "x");
    }

    #[test]
    fn padding_fills_the_last_block() {
        assert_eq!(
            [padding(0), padding(1), padding(512), padding(513)],
            [0, 511, 0, 511]
        );
    }
}
