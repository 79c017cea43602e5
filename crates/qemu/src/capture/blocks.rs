//! Where what is read in a pause is kept until it is written to a file.
//!
//! A file system on a busy host makes its writers wait, and a page that a process touches for the
//! first time has to be found by the kernel. So the room for what is read is made before the pause,
//! and files are written after it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::snapshot::clear;

/// Bytes of a page; x86-64's smallest, in which pagemap counts.
pub(super) const PAGE: u64 = 4096;
/// More threads than this wait for each other in the kernel; fewer get less of a busy host.
pub(super) const THREADS: u32 = 4;
/// Most that is kept in this process between the pause and the file.
const KEPT_BYTES: u64 = 256 << 20;
/// Bytes of a block: several runs, and few blocks.
const BLOCK_BYTES: u64 = 1 << 20;
/// What the threads' last blocks may be beyond [`KEPT_BYTES`].
const ROOM_BYTES: u64 = BLOCK_BYTES * THREADS as u64;

/// A mapping of `length` bytes at `address` of what is at `offset` in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Room for pages that are read in a pause.
pub(super) struct Block {
    bytes: Vec<u8>,
    /// What is in it, one after the other.
    runs: Vec<Span>,
    used: u64,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A guest's memory is nobody's business.
        write!(f, "Block({} runs)", self.runs.len())
    }
}

impl Block {
    fn new() -> Self {
        Self {
            bytes: vec![0; to_bytes(BLOCK_BYTES)],
            runs: Vec::new(),
            used: 0,
        }
    }

    /// Room for so many bytes and some more. Its pages are there already: to make them in the pause
    /// takes longer than to read into them.
    ///
    /// # Blocking
    /// 0.1 s for [`KEPT_BYTES`].
    pub(super) fn prepare(bytes: u64) -> Vec<Self> {
        let bytes = bytes.saturating_add(bytes / 4).min(KEPT_BYTES);
        let count = bytes.div_ceil(BLOCK_BYTES) + u64::from(THREADS);
        let blocks = (0..count).map(|_| {
            let mut block = Self::new();
            let pages = block.bytes.chunks_mut(to_bytes(PAGE));
            pages.for_each(|page| page[0] = 1);
            block
        });
        blocks.collect()
    }

    pub(super) const fn room(&self) -> u64 {
        BLOCK_BYTES - self.used
    }

    pub(super) fn read(&mut self, memory: &File, run: Span) -> io::Result<()> {
        let start = to_usize(self.used)?;
        let end = start + to_usize(run.length)?;
        let place = self.bytes.get_mut(start..end);
        let place = place.ok_or_else(|| io::Error::other("a run is larger than a block"))?;
        memory.read_exact_at(place, run.address)?;
        self.runs.push(run);
        self.used += run.length;
        Ok(())
    }

    pub(super) fn empty(&mut self) {
        self.runs.clear();
        self.used = 0;
    }

    /// Writes its pages to where they belong. A page of zeroes becomes a hole.
    pub(super) fn write(&self, target: &File) -> io::Result<()> {
        let mut rest = self.bytes.as_slice();
        for run in &self.runs {
            let (bytes, more) = rest
                .split_at_checked(to_usize(run.length)?)
                .ok_or_else(|| io::Error::other("a run is larger than a block"))?;
            write(bytes, run.offset, target)?;
            rest = more;
        }
        Ok(())
    }
}

fn write(bytes: &[u8], mut offset: u64, target: &File) -> io::Result<()> {
    let (pages, _) = bytes.as_chunks();
    // Neighbours of one kind go together.
    for group in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let group: &[[u8; to_bytes(PAGE)]] = group;
        let length = group.len() as u64 * PAGE;
        if is_zero(&group[0]) {
            clear(target, offset, length)?;
        } else {
            target.write_all_at(group.as_flattened(), offset)?;
        }
        offset += length;
    }
    Ok(())
}

/// The blocks that several threads read into.
pub(super) struct BlockPool {
    ready: Mutex<Vec<Block>>,
    /// Blocks given out.
    count: AtomicU64,
}

impl BlockPool {
    pub(super) const fn new(ready: Vec<Block>) -> Self {
        Self {
            ready: Mutex::new(ready),
            count: AtomicU64::new(0),
        }
    }

    pub(super) fn block(&self) -> Block {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let block = ready.pop();
        drop(ready);
        block.unwrap_or_else(Block::new)
    }

    /// Whether no more may be kept.
    pub(super) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) * BLOCK_BYTES > KEPT_BYTES + ROOM_BYTES
    }
}

pub(super) fn to_usize(count: u64) -> io::Result<usize> {
    usize::try_from(count).map_err(io::Error::other)
}

#[allow(clippy::cast_possible_truncation, reason = "a page fits in any usize")]
const fn to_bytes(count: u64) -> usize {
    count as usize
}

fn is_zero(page: &[u8; to_bytes(PAGE)]) -> bool {
    let (words, _) = page.as_chunks();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads pages of a file that stands for a process's memory.
    #[test]
    fn what_was_read_is_written_to_where_it_belongs_and_zeroes_become_holes() {
        let dir = tempfile::tempdir().unwrap();
        let page = |byte| vec![byte; to_bytes(PAGE)];
        let memory = dir.path().join("memory");
        std::fs::write(&memory, [page(1), page(0), page(3)].concat()).unwrap();
        let memory = File::open(memory).unwrap();
        let path = dir.path().join("target");
        std::fs::write(&path, [page(9), page(9), page(9), page(9)].concat()).unwrap();
        let target = File::options().write(true).open(&path).unwrap();
        let mut blocks = Block::prepare(0);
        let mut block = blocks.pop().unwrap();
        for (address, offset, length) in [(2 * PAGE, 0, PAGE), (0, 2 * PAGE, 2 * PAGE)] {
            let run = Span {
                address,
                offset,
                length,
            };
            block.read(&memory, run).unwrap();
        }
        assert_eq!(block.room(), BLOCK_BYTES - 3 * PAGE);
        block.write(&target).unwrap();
        let expected = [page(3), page(9), page(1), page(0)].concat();
        assert!(std::fs::read(&path).unwrap() == expected);
    }

    #[test]
    fn a_block_takes_no_more_than_it_has_room_for_and_blocks_are_bounded() {
        let file = tempfile::tempfile().unwrap();
        let run = Span {
            address: 0,
            offset: 0,
            length: BLOCK_BYTES + PAGE,
        };
        assert!(Block::new().read(&file, run).is_err());
        let most = (KEPT_BYTES + ROOM_BYTES) / BLOCK_BYTES;
        assert_eq!(Block::prepare(u64::MAX).len() as u64, most);
        let pool = BlockPool::new(Vec::new());
        let given: Vec<_> = (0..most).map(|_| pool.block()).collect();
        assert!(!pool.is_full());
        drop((pool.block(), given));
        assert!(pool.is_full());
    }
}
