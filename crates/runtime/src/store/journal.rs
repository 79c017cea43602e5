//! The journal of events: a file of JSON lines that every process of the store appends to.
//!
//! ```text
//! home/events/events.jsonl      {"part":7}, then one event a line
//! home/events/events.jsonl.1    part 6, complete
//! home/events/lock
//! ```
//! A line is written by one write(2) with `O_APPEND`, without waiting for the disk. At
//! [`ROTATE_BYTES`] the file becomes `.1` and a new part begins. The lock keeps a rotation away from
//! appends. It is held for microseconds and never waited for long: a process that cannot have it
//! appends without it, and leaves the rotation to the next one.
//!
//! Readers hold no lock, so that a slow one stops no writer. One that is so slow that a whole part
//! is gone gets [`EventKind::Missed`](super::event::EventKind::Missed).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use cofferdam_base::{LockFile, fs};
use serde::{Deserialize, Serialize};

use super::event::Event;

/// A part's largest size in bytes; two of them are kept.
const ROTATE_BYTES: u64 = 4 << 20;

/// Longest line that a reader keeps, in bytes. A failure's text is bounded by a client's frame.
const MAX_LINE_BYTES: usize = 1 << 20;

/// How often the lock is tried, and the time between two tries.
const LOCK_TRIES: u32 = 20;
const LOCK_INTERVAL: Duration = Duration::from_micros(200);

/// First line of a part.
#[derive(Serialize, Deserialize)]
struct Header {
    part: u64,
}

/// The journal of a store.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    rotate_bytes: u64,
}

impl Journal {
    /// The journal in `dir`.
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            rotate_bytes: ROTATE_BYTES,
        }
    }

    fn current(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }

    fn previous(&self) -> PathBuf {
        self.dir.join("events.jsonl.1")
    }

    /// Appends an event.
    ///
    /// # Errors
    /// The file system's.
    ///
    /// # Blocking
    /// Some milliseconds at most, where other processes append at the same time.
    pub(crate) fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let lock = self.lock();
        let mut file = match self.open_for_append() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_private_dir(&self.dir)?;
                self.open_for_append()?
            }
            opened => opened?,
        };
        let size = file.metadata()?.len();
        if lock.is_some() && (size == 0 || size >= self.rotate_bytes) {
            file = self.begin_part(size > 0)?;
        }
        file.write_all(&line)
    }

    fn open_for_append(&self) -> io::Result<File> {
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.current())
    }

    /// The lock, unless other processes have it for longer than they should.
    fn lock(&self) -> Option<LockFile> {
        for _ in 0..LOCK_TRIES {
            match LockFile::try_exclusive(&self.dir.join("lock")) {
                Ok(Some(lock)) => return Some(lock),
                // Time, on purpose: the holder writes one line.
                Ok(None) => std::thread::sleep(LOCK_INTERVAL),
                Err(_) => {
                    // There is no directory yet, or it cannot be written; then the append says so.
                    let _ = fs::create_private_dir(&self.dir);
                }
            }
        }
        None
    }

    /// Begins a part; the caller has the lock. With `rotate` the old one is kept as the previous.
    fn begin_part(&self, rotate: bool) -> io::Result<File> {
        if rotate {
            std::fs::rename(self.current(), self.previous())?;
        }
        let part = File::open(self.previous())
            .and_then(|file| header(&mut BufReader::new(file)))
            .unwrap_or_default()
            .saturating_add(1);
        let mut file = self.open_for_append()?;
        let mut line = serde_json::to_vec(&Header { part })?;
        line.push(b'\n');
        file.write_all(&line)?;
        Ok(file)
    }
}

/// Reads events in their order; the end of the file is not the end of the journal.
#[derive(Debug)]
pub(crate) struct JournalReader {
    journal: Journal,
    file: Option<BufReader<File>>,
    /// Number of the part that is read.
    part: u64,
    line: Vec<u8>,
    /// Whether the rest of an overlong line is passed over.
    skips: bool,
    /// Whether the part is complete: all that was written to it is there.
    is_complete: bool,
}

impl JournalReader {
    /// Opens a journal at its oldest event.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn open(journal: &Journal) -> io::Result<Self> {
        let mut reader = Self {
            journal: journal.clone(),
            file: None,
            part: 0,
            line: Vec::new(),
            skips: false,
            is_complete: false,
        };
        reader.open_next()?;
        Ok(reader)
    }

    /// Passes over all events that are there.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn skip_to_end(&mut self) -> io::Result<()> {
        while self.next_event()?.is_some() {}
        Ok(())
    }

    /// The next event; `None` when there is none yet.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(line) = self.next_line()? {
                // Neither a header nor an event: what a full disk has cut.
                match serde_json::from_slice::<Event>(&line) {
                    Ok(event) => return Ok(Some(event)),
                    Err(_) if serde_json::from_slice::<Header>(&line).is_ok() => continue,
                    Err(_) => return Ok(Some(Event::missed())),
                }
            }
            if !self.is_complete {
                if !self.is_replaced()? {
                    return Ok(None);
                }
                // What was written between the look at its end and the rotation comes first.
                self.is_complete = true;
                continue;
            }
            match self.open_next()? {
                None => return Ok(None),
                Some(true) => {}
                Some(false) => return Ok(Some(Event::missed())),
            }
        }
    }

    /// The next line of the part, without its end.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        loop {
            let buffer = file.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffer.len(), |end| end + 1);
            if !self.skips {
                self.line
                    .extend_from_slice(&buffer[..end.unwrap_or(length)]);
            }
            file.consume(length);
            if self.line.len() > MAX_LINE_BYTES {
                self.line.clear();
                self.skips = true;
            }
            if end.is_some() {
                self.skips = false;
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }

    /// Whether another part is the current one, or there is one at last.
    fn is_replaced(&self) -> io::Result<bool> {
        let there = match std::fs::metadata(self.journal.current()) {
            Ok(metadata) => metadata.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match &self.file {
            Some(file) => Ok(file.get_ref().metadata()?.ino() != there),
            None => Ok(true),
        }
    }

    /// Opens the part behind the one that was read; none if there is no such part yet. False when
    /// parts between them are gone.
    fn open_next(&mut self) -> io::Result<Option<bool>> {
        // In this order: a part is renamed from the first path to the second.
        let mut parts = Vec::new();
        for path in [self.journal.current(), self.journal.previous()] {
            if let Some(part) = open_part(&path)? {
                parts.push(part);
            }
        }
        let is_first = self.file.is_none();
        let newer = parts
            .into_iter()
            .filter(|(part, _)| is_first || *part > self.part);
        let Some((part, file)) = newer.min_by_key(|(part, _)| *part) else {
            return Ok(None);
        };
        let follows = is_first || part == self.part.saturating_add(1);
        self.part = part;
        self.file = Some(file);
        self.line.clear();
        self.is_complete = false;
        Ok(Some(follows))
    }
}

/// Opens a part with its number; none if there is no file. A part that has lost its header is 0.
fn open_part(path: &Path) -> io::Result<Option<(u64, BufReader<File>)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut file = BufReader::with_capacity(32 << 10, file);
    let part = header(&mut file)?;
    // The header is read again, as a line that is no event.
    io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
    Ok(Some((part, file)))
}

/// The number in the first line of a part; 0 if it has none.
fn header(file: &mut impl BufRead) -> io::Result<u64> {
    let mut line = Vec::new();
    io::Read::take(file, 100).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice::<Header>(&line).map_or(0, |header| header.part))
}

#[cfg(test)]
mod tests;
