//! The workload's output as the supervisor keeps it: exact bytes with their time and channel.
//!
//! ```text
//! record: [time_ns: u64 LE][channel: u8][len: u32 LE][bytes: len]
//! ```
//! Written by the supervisor, read by clients. At [`ROTATE_BYTES`] the file becomes `….1` and the
//! one before it goes, so a chatty guest cannot fill the host's disk.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cofferdam_base::time::system_time;
use cofferdam_proto::Channel;

/// The channel of marks.
pub(crate) const MARK: Channel = Channel::Stdin;

/// A log file's largest size in bytes; two of them are kept for each sandbox.
pub(crate) const ROTATE_BYTES: u64 = 64 << 20;

/// How many files of one log there are.
const MAX_FILES: usize = 2;

const HEADER_BYTES: usize = 13;

/// Largest record that a reader accepts, in bytes: one frame's data.
const MAX_RECORD_BYTES: usize = 1 << 20;

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// When the supervisor received it, in nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Standard output or error; standard input for a mark, a line that is not the workload's.
    pub channel: Channel,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl LogRecord {
    /// When the supervisor received it.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        system_time(self.time_ns)
    }
}

/// Where a record was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Its first byte in the newest file.
    pub(crate) position: u64,
    /// Whether it is the first of a new file.
    pub(crate) rotated: bool,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
}

impl LogWriter {
    /// Opens the log for appending.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// Appends one record with a single write, so that a reader sees it whole.
    pub(crate) fn append(
        &mut self,
        time_ns: u64,
        channel: Channel,
        bytes: &[u8],
    ) -> io::Result<Written> {
        let rotated_now = self.size >= ROTATE_BYTES;
        if rotated_now {
            std::fs::rename(&self.path, rotated(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(HEADER_BYTES + bytes.len());
        record.extend_from_slice(&time_ns.to_le_bytes());
        record.push(channel as u8);
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(bytes);
        let position = self.size;
        self.file.write_all(&record)?;
        self.size += record.len() as u64;
        Ok(Written {
            position,
            rotated: rotated_now,
        })
    }
}

/// Reads a log from its oldest record; the end of the file is not the end of the log.
#[derive(Debug)]
pub(crate) struct LogReader {
    files: Vec<BufReader<File>>,
    partial: Vec<u8>,
}

impl LogReader {
    /// Opens the log at `path`, the rotated part first. A log that was never written is empty.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in [path.to_owned(), rotated(path)] {
            match File::open(path) {
                Ok(file) => files.push(BufReader::with_capacity(64 << 10, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            files,
            partial: Vec::new(),
        })
    }

    /// Opens the newest file of the log at one of its records.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn open_at(path: &Path, position: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(position))?;
        Ok(Self {
            files: vec![BufReader::with_capacity(64 << 10, file)],
            partial: Vec::new(),
        })
    }

    /// The log goes on in the file that is at `path` now. False when an older one had to go, and
    /// what was not read of it with it: two are kept.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn add_newer(&mut self, path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        self.files
            .insert(0, BufReader::with_capacity(64 << 10, file));
        if self.files.len() <= MAX_FILES {
            return Ok(true);
        }
        let Some(mut oldest) = self.files.pop() else {
            return Ok(true);
        };
        let was_read = self.partial.is_empty() && oldest.fill_buf()?.is_empty();
        self.partial.clear();
        Ok(was_read)
    }

    /// Whether the file at `path` is another than the one being read: it was rotated, or there is
    /// one at last.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn is_replaced(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let there = match std::fs::metadata(path) {
            Ok(metadata) => metadata.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match self.files.last() {
            Some(file) => Ok(file.get_ref().metadata()?.ino() != there),
            None => Ok(true),
        }
    }

    /// Goes on with the file that is at `path` now.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn reopen(&mut self, path: &Path) -> io::Result<()> {
        self.files = vec![BufReader::with_capacity(64 << 10, File::open(path)?)];
        self.partial.clear();
        Ok(())
    }

    /// The next record; `None` when there is none yet.
    ///
    /// # Errors
    /// `InvalidData` for a damaged file, or the file system's.
    pub(crate) fn next_record(&mut self) -> io::Result<Option<LogRecord>> {
        loop {
            let Some(file) = self.files.last_mut() else {
                return Ok(None);
            };
            if !fill(file, &mut self.partial, HEADER_BYTES)? {
                if self.files.len() > 1 {
                    // A rotated file does not grow: what is left of it was cut by a full disk.
                    self.files.pop();
                    self.partial.clear();
                    continue;
                }
                return Ok(None);
            }
            let [t0, t1, t2, t3, t4, t5, t6, t7, channel, l0, l1, l2, l3] =
                self.partial[..HEADER_BYTES]
            else {
                return Ok(None);
            };
            let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            let channel = match channel {
                0 => MARK,
                1 => Channel::Stdout,
                2 => Channel::Stderr,
                _ => return Err(damaged()),
            };
            if length > MAX_RECORD_BYTES {
                return Err(damaged());
            }
            if !fill(file, &mut self.partial, HEADER_BYTES + length)? {
                return Ok(None);
            }
            let bytes = self.partial.split_off(HEADER_BYTES);
            self.partial.clear();
            let time_ns = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
            return Ok(Some(LogRecord {
                time_ns,
                channel,
                bytes,
            }));
        }
    }
}

/// Reads until `buffer` holds `wanted` bytes; false at the end of the file.
fn fill(file: &mut impl Read, buffer: &mut Vec<u8>, wanted: usize) -> io::Result<bool> {
    let missing = wanted.saturating_sub(buffer.len());
    file.take(missing as u64).read_to_end(buffer)?;
    Ok(buffer.len() >= wanted)
}

fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "log record is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_exactly_also_while_the_log_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let mut writer = LogWriter::open(&path).unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(reader.next_record().unwrap(), None);
        writer.append(7, Channel::Stdout, b"\x00\xff\n").unwrap();
        writer.append(8, Channel::Stderr, b"").unwrap();
        let first = reader.next_record().unwrap().unwrap();
        assert_eq!((first.time_ns, first.channel), (7, Channel::Stdout));
        assert_eq!(first.bytes, b"\x00\xff\n");
        assert_eq!(
            reader.next_record().unwrap().unwrap().channel,
            Channel::Stderr
        );
        assert_eq!(reader.next_record().unwrap(), None);
        writer.append(9, Channel::Stdout, b"more").unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().bytes, b"more");
    }

    #[test]
    fn the_rotated_part_is_read_first_and_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        for content in [b"a", b"b", b"c"] {
            let mut writer = LogWriter::open(&path).unwrap();
            writer.append(1, Channel::Stdout, content).unwrap();
            writer.size = ROTATE_BYTES;
            writer.append(1, Channel::Stdout, content).unwrap();
        }
        let mut reader = LogReader::open(&path).unwrap();
        let mut all = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            all.extend(record.bytes);
        }
        assert_eq!(all, b"bcc");
    }

    #[test]
    fn a_slow_reader_of_a_log_that_rotates_misses_only_what_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let mut writer = LogWriter::open(&path).unwrap();
        writer.append(1, Channel::Stdout, b"before").unwrap();
        let written = writer.append(1, Channel::Stdout, b"a").unwrap();
        let mut reader = LogReader::open_at(&path, written.position).unwrap();
        let mut complete = Vec::new();
        for content in [b"b", b"c", b"d"] {
            writer.size = ROTATE_BYTES;
            let written = writer.append(1, Channel::Stdout, content).unwrap();
            assert!(written.rotated && written.position == 0);
            complete.push(reader.add_newer(&path).unwrap());
            if content == b"b" {
                assert_eq!(reader.next_record().unwrap().unwrap().bytes, b"a");
            }
        }
        assert_eq!(complete, [true, true, false]);
        let mut rest = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            rest.extend(record.bytes);
        }
        assert_eq!(rest, b"cd");
    }

    #[test]
    fn a_mark_stands_between_records_and_is_none_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let mut writer = LogWriter::open(&path).unwrap();
        writer.append(1, Channel::Stdout, b"a").unwrap();
        writer.append(2, MARK, b"mark\n").unwrap();
        writer.append(3, Channel::Stderr, b"b").unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        let mut channels = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            channels.push(record.channel);
        }
        let expected = [Channel::Stdout, MARK, Channel::Stderr];
        assert_eq!(channels, expected);
    }

    #[test]
    fn a_damaged_record_is_an_error_not_an_allocation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        std::fs::write(&path, [[0; 8].as_slice(), &[1], &[0xff; 4]].concat()).unwrap();
        let error = LogReader::open(&path).unwrap().next_record().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
