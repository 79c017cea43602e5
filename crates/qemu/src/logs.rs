//! What the guest and QEMU print, kept at a bounded size.
//!
//! The machine's thread (see `process`) reads the outputs and writes them to their files, so that
//! neither a slow disk nor a flooding guest holds up the runtime's reactor. The guest may print
//! what it likes: bytes are kept as they are and made text on reading.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use cofferdam_backend::log_files::{ROTATE_BYTES, older};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A socket's default buffer is 208 KiB; larger reads would save no call.
const READ_BYTES: usize = 64 << 10;

/// A machine's outputs, each with its log.
#[derive(Debug)]
pub(crate) struct Outputs {
    open: Vec<(File, RotatingLog)>,
    buffer: Vec<u8>,
}

impl Outputs {
    /// Outputs and the files to keep them in.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub(crate) fn keep(outputs: Vec<(OwnedFd, PathBuf)>) -> io::Result<Self> {
        let keep = |(fd, path)| Ok((File::from(fd), RotatingLog::create(path)?));
        Ok(Self {
            open: outputs.into_iter().map(keep).collect::<io::Result<_>>()?,
            buffer: vec![0; READ_BYTES],
        })
    }

    /// No outputs.
    pub(crate) const fn none() -> Self {
        Self {
            open: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// What to poll for; closed outputs are not among them.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.open
            .iter()
            .map(|(output, _)| PollFd::new(output, PollFlags::IN))
    }

    /// Reads once from each output whose place in [`Self::poll_fds`] is ready.
    ///
    /// # Blocking
    /// Not on a ready output; on the disk.
    pub(crate) fn read(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        let buffer = &mut self.buffer;
        self.open.retain_mut(|(output, log)| {
            !ready.next().is_some_and(|ready| *ready) || read_once(output, log, buffer)
        });
    }

    /// Reads all that is left, for no longer than `limit` after each piece.
    pub(crate) fn drain(&mut self, limit: Timespec) {
        while !self.open.is_empty() {
            let mut polled: Vec<PollFd<'_>> = self.poll_fds().collect();
            match poll(&mut polled, Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let ready: Vec<bool> =
                        polled.iter().map(|fd| !fd.revents().is_empty()).collect();
                    self.read(&ready);
                }
            }
        }
    }
}

/// Whether more may come.
fn read_once(output: &mut File, log: &mut RotatingLog, buffer: &mut [u8]) -> bool {
    match output.read(buffer) {
        Ok(0) => false,
        Ok(count) => {
            // A full disk loses log lines; it must not stop the guest, which would wait for its
            // console to be read.
            let _ = log.append(&buffer[..count]);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    }
}

/// A log file of at most [`ROTATE_BYTES`], and one older file of the same size.
#[derive(Debug)]
struct RotatingLog {
    path: PathBuf,
    file: File,
    size: u64,
}

impl RotatingLog {
    /// Appends to what an earlier start of the same sandbox left.
    fn create(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size >= ROTATE_BYTES {
            fs::rename(&self.path, older(&self.path))?;
            self.file = open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use cofferdam_backend::log_files::tail;

    use super::*;

    const LIMIT: Timespec = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };

    #[test]
    fn a_flood_keeps_two_bounded_files_and_the_newest_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let (mut guest, host) = UnixStream::pair().unwrap();
        let mut outputs = Outputs::keep(vec![(host.into(), path.clone())]).unwrap();
        let reading = std::thread::spawn(move || outputs.drain(LIMIT));
        for number in 0..400_000 {
            writeln!(guest, "line {number}").unwrap();
        }
        drop(guest);
        reading.join().unwrap();
        let total: u64 = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= 2 * (ROTATE_BYTES + READ_BYTES as u64), "{total}");
        assert_eq!(tail(&path, 2).unwrap(), ["line 399998", "line 399999"]);
    }

    #[test]
    fn both_outputs_are_kept_apart_and_bytes_that_are_no_text_survive() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let (mut a, x) = UnixStream::pair().unwrap();
        let (mut b, y) = UnixStream::pair().unwrap();
        let files = vec![(x.into(), one.clone()), (y.into(), two.clone())];
        let mut outputs = Outputs::keep(files).unwrap();
        a.write_all(b"\xff\n").unwrap();
        drop(a);
        b.write_all(b"text").unwrap();
        drop(b);
        outputs.drain(LIMIT);
        assert_eq!(fs::read(&one).unwrap(), b"\xff\n");
        assert_eq!(tail(&two, 9).unwrap(), ["text"]);
        assert_eq!(tail(&dir.path().join("never"), 9).unwrap(), [""; 0]);
    }
}
