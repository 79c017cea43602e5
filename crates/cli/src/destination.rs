//! Where `save` and `snapshot export` write: a file, or standard output.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use cofferdam::{Error, ErrorKind, Result};

use crate::{
    exit_status::{BROKEN_PIPE, ExitStatus},
    staged_file::{Rights, write_whole},
};

/// Writes to a file; to standard output without a name, or when it is `-`. A reader of ours that
/// goes away ends us as it ends others, by SIGPIPE's code and without a word.
///
/// # Errors
/// What `write` fails with; the file's; [`ErrorKind::InvalidSpec`] when standard output is a
/// terminal.
pub(crate) fn write_to(
    output: Option<&Path>,
    rights: Rights,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<ExitStatus> {
    if let Some(path) = output.filter(|path| *path != Path::new("-")) {
        return write_whole(path, rights, |mut file| write(&mut file))
            .map(|()| ExitStatus::Success);
    }
    if io::stdout().is_terminal() {
        let what = "Standard output is a terminal, not a file";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("Name a file with `-o`, or redirect the output"));
    }
    let mut stdout = WatchedWriter {
        inner: io::stdout().lock(),
        reader_is_gone: false,
    };
    let written = write(&mut stdout);
    // What is left in the buffer; another failure is found again when the program ends.
    let _ = stdout.flush();
    if stdout.reader_is_gone {
        return Ok(ExitStatus::Workload(BROKEN_PIPE));
    }
    written.map(|()| ExitStatus::Success)
}

/// A writer that notes when nobody reads it any more, which those between may call otherwise.
struct WatchedWriter<W> {
    inner: W,
    reader_is_gone: bool,
}

impl<W> WatchedWriter<W> {
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.reader_is_gone |= error.kind() == io::ErrorKind::BrokenPipe;
        }
        result
    }
}

impl<W: Write> Write for WatchedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes);
        self.noted(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner.flush();
        self.noted(flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_is_noted() {
        let (reader, inner) = io::pipe().unwrap();
        let mut watched = WatchedWriter {
            inner,
            reader_is_gone: false,
        };
        watched.write_all(b"x").unwrap();
        assert!(!watched.reader_is_gone);
        drop(reader);
        assert!(watched.write_all(b"x").is_err() && watched.reader_is_gone);
    }
}
