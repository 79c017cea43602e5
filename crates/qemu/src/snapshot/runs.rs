//! Guest memory into its file: in runs, because page by page is slow, and with holes for zeroes.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::{FallocateFlags, fallocate};

use crate::stream::PageSink;

const PAGE: u64 = 4096;
/// Larger writes gain nothing.
const RUN_BYTES: usize = 1 << 20;

/// A memory file, of holes at first.
#[derive(Debug)]
pub(super) struct Runs {
    file: File,
    start: u64,
    bytes: Vec<u8>,
    /// A bit for each page that is no hole any more.
    written: Vec<u64>,
}

impl Runs {
    pub(super) fn new(file: File, bytes: u64) -> io::Result<Self> {
        let words = usize::try_from(bytes.div_ceil(PAGE * 64)).map_err(io::Error::other)?;
        Ok(Self {
            file,
            start: 0,
            bytes: Vec::with_capacity(RUN_BYTES),
            written: vec![0; words],
        })
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, self.start)?;
        self.bytes.clear();
        Ok(())
    }

    /// The page's word and bit in `written`.
    fn bit(&mut self, offset: u64) -> io::Result<(&mut u64, u64)> {
        let page = offset / PAGE;
        let word = usize::try_from(page / 64).map_err(io::Error::other)?;
        let word = self.written.get_mut(word);
        word.map(|word| (word, 1 << (page % 64)))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

impl PageSink for Runs {
    fn put(&mut self, offset: u64, page: &[u8; 4096]) -> io::Result<()> {
        let next = self.start + self.bytes.len() as u64;
        if offset != next || self.bytes.len() >= RUN_BYTES {
            self.flush()?;
            self.start = offset;
        }
        self.bytes.extend_from_slice(page);
        let (word, bit) = self.bit(offset)?;
        *word |= bit;
        Ok(())
    }

    fn clear(&mut self, offset: u64) -> io::Result<()> {
        let (word, bit) = self.bit(offset)?;
        if *word & bit == 0 {
            return Ok(());
        }
        *word &= !bit;
        // What it clears may not have been written yet.
        self.flush()?;
        clear(&self.file, offset, PAGE)
    }
}

/// Makes a hole, or zeroes where the file system has no holes.
pub(crate) fn clear(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            file.write_all_at(&vec![0; length], offset)
        }
        other => other.map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_page_counts() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * PAGE).unwrap();
        let mut runs = Runs::new(file.try_clone().unwrap(), 4 * PAGE).unwrap();
        let page = |byte| [byte; 4096];
        runs.put(0, &page(1)).unwrap();
        runs.put(PAGE, &page(2)).unwrap();
        runs.clear(PAGE).unwrap();
        runs.clear(2 * PAGE).unwrap();
        runs.put(3 * PAGE, &page(3)).unwrap();
        runs.put(0, &page(4)).unwrap();
        runs.clear(3 * PAGE).unwrap();
        runs.put(2 * PAGE, &page(5)).unwrap();
        runs.put(2 * PAGE, &page(6)).unwrap();
        assert!(runs.clear(64 * PAGE).is_err());
        runs.finish().unwrap();
        for (number, byte) in (0..).zip([4, 0, 6, 0]) {
            let mut found = page(9);
            file.read_exact_at(&mut found, number * PAGE).unwrap();
            assert!(found == page(byte), "page {number} is of {}", found[0]);
        }
    }
}
