//! Which pages of guest memory a guest has used or changed, and what is in them, told from outside.
//!
//! A restored machine maps its snapshot's memory file privately, so a page that was written is an
//! anonymous page of the QEMU process, and every other one is still in the file.
//! Invariant: the machine stands still while contents are read; they are then of one moment.
//! Source: proc(5) `/proc/PID/maps`, `/proc/PID/mem`; Linux `Documentation/admin-guide/mm/pagemap.rst`.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::blocks::{Block, BlockPool, PAGE, Span, THREADS, to_usize};

/// Bits of a pagemap entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
/// Most bytes read at once; larger reads gain nothing.
const RUN_BYTES: u64 = 256 << 10;
/// Guest memory that one thread looks through before it asks for more.
const PART_BYTES: u64 = 8 << 20;

/// The guest memory of a QEMU process that maps it privately from a file.
#[derive(Debug)]
pub(super) struct PrivateMemory {
    memory: File,
    pagemap: File,
    spans: Vec<Span>,
}

impl PrivateMemory {
    /// Finds the mappings of `origin` in the process; fails unless they are all of `bytes` bytes,
    /// each once, and may be read.
    pub(super) fn open(pid: u32, origin: &File, bytes: u64) -> io::Result<Self> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        let spans = spans(&maps, origin.metadata()?.ino(), bytes)
            .ok_or_else(|| io::Error::other("guest memory is not mapped as it was told to be"))?;
        Ok(Self {
            memory: open("mem")?,
            pagemap: open("pagemap")?,
            spans,
        })
    }

    /// Bytes that the guest has changed.
    pub(super) fn changed_bytes(&self) -> io::Result<u64> {
        let mut total = 0;
        for span in &self.spans {
            self.runs(*span, is_changed, &mut |run| {
                total += run.length;
                Ok(())
            })?;
        }
        Ok(total)
    }

    /// Guest memory that was read or changed, in order. The kernel maps pages of a file together
    /// with those around them, so some were not.
    pub(super) fn touched(&self) -> io::Result<Vec<Range<u64>>> {
        let mut touched: Vec<Range<u64>> = Vec::new();
        for span in &self.spans {
            self.runs(*span, is_touched, &mut |run| {
                let end = run.offset + run.length;
                match touched.last_mut() {
                    Some(last) if last.end == run.offset => last.end = end,
                    _ => touched.push(run.offset..end),
                }
                Ok(())
            })?;
        }
        Ok(touched)
    }

    /// Reads what the guest has changed into `room`, so that it can be written when the guest runs
    /// again: a file system on a busy host makes its writers wait. What is too much to be kept is
    /// written to `target` at once.
    ///
    /// # Blocking
    /// 0.2 s for a GiB with two processors.
    pub(super) fn read_changed(&self, room: Vec<Block>, target: &File) -> io::Result<Vec<Block>> {
        let parts: Vec<Span> = self.spans.iter().flat_map(|span| span.parts()).collect();
        let (next, room) = (AtomicUsize::new(0), BlockPool::new(room));
        let work = || -> io::Result<Vec<Block>> {
            let (mut full, mut block) = (Vec::new(), room.block());
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.runs(*part, is_changed, &mut |run| {
                    if block.room() < run.length {
                        full.push(std::mem::replace(&mut block, room.block()));
                    }
                    block.read(&self.memory, run)?;
                    if room.is_full() {
                        block.write(target)?;
                        block.empty();
                    }
                    Ok(())
                })?;
            }
            full.push(block);
            Ok(full)
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..THREADS).map(|_| scope.spawn(work)).collect();
            let mut blocks = work()?;
            for other in others {
                let more = other.join();
                let panicked = |_| io::Error::other("a reader of guest memory has panicked");
                blocks.extend(more.map_err(panicked)??);
            }
            Ok(blocks)
        })
    }

    /// Calls `take` for each run of pages in `span` whose entries are `wanted`.
    fn runs(
        &self,
        span: Span,
        wanted: impl Fn(u64) -> bool,
        take: &mut impl FnMut(Span) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut entries = vec![0; to_usize(span.length / PAGE * 8)?];
        self.pagemap
            .read_exact_at(&mut entries, span.address / PAGE * 8)?;
        let (words, _) = entries.as_chunks();
        let mut run: Option<Span> = None;
        for (number, word) in (0..).zip(words) {
            let at = Span {
                address: span.address + number * PAGE,
                offset: span.offset + number * PAGE,
                length: PAGE,
            };
            match (&mut run, wanted(u64::from_ne_bytes(*word))) {
                (Some(run), true) if run.length < RUN_BYTES => run.length += PAGE,
                (run, begins) => {
                    let over = std::mem::replace(run, begins.then_some(at));
                    over.map_or(Ok(()), &mut *take)?;
                }
            }
        }
        run.map_or(Ok(()), take)
    }
}

const fn is_changed(entry: u64) -> bool {
    entry & SWAPPED != 0 || (entry & PRESENT != 0 && entry & OF_FILE == 0)
}

const fn is_touched(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0
}

impl Span {
    fn parts(self) -> impl Iterator<Item = Self> {
        let starts = (0..self.length.div_ceil(PART_BYTES)).map(|number| number * PART_BYTES);
        starts.map(move |start| Self {
            address: self.address + start,
            offset: self.offset + start,
            length: PART_BYTES.min(self.length - start),
        })
    }
}

/// The private mappings of the file with the number `inode`; `None` unless they are `bytes` bytes
/// from the file's start, without gap or overlap. Devices are not compared: some file systems tell
/// another one here than they tell to fstat(2).
fn spans(maps: &str, inode: u64, bytes: u64) -> Option<Vec<Span>> {
    let mut spans: Vec<Span> = maps.lines().filter_map(|line| span(line, inode)).collect();
    spans.sort_by_key(|span| span.offset);
    let end = spans.iter().try_fold(0, |end, span| {
        (span.offset == end).then_some(span.offset + span.length)
    });
    (end == Some(bytes) && bytes > 0).then_some(spans)
}

/// `start-end permissions offset device inode path`, proc(5).
fn span(line: &str, inode: u64) -> Option<Span> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (offset, _device) = (hex(words.next()?)?, words.next()?);
    let number: u64 = words.next()?.parse().ok()?;
    // Programs are mapped privately too; guest memory alone can be written to as well.
    (number == inode && permissions.starts_with("rw") && permissions.ends_with('p')).then_some(
        Span {
            address: hex(start)?,
            offset,
            length: hex(end)?.checked_sub(hex(start)?)?,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 fe:00 77                         /t/memory with space
7f0000200000-7f0000400000 rw-p 00200000 fe:00 77                         /t/memory with space
7f0000400000-7f0000401000 r--p 00400000 fe:00 77                         /t/memory with space
7f0000500000-7f0000600000 rw-s 00000000 fe:00 78                         /t/other
7f0000700000-7f0000800000 rw-p 00000000 00:00 0 
";

    #[test]
    fn mappings_that_cover_memory_once_are_found() {
        let found = spans(MAPS, 77, 4 << 20).unwrap();
        let expected =
            [(0x7f00_0000_0000, 0), (0x7f00_0020_0000, 2 << 20)].map(|(address, offset)| Span {
                address,
                offset,
                length: 2 << 20,
            });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_gap_an_overlap_another_size_and_shared_mappings_are_none() {
        assert_eq!(spans(MAPS, 77, 6 << 20), None);
        assert_eq!(spans(MAPS, 78, 1 << 20), None);
        assert_eq!(spans(MAPS, 79, 0), None);
        let second = MAPS.split_once('\n').unwrap().1;
        assert_eq!(spans(second, 77, 4 << 20), None);
        assert_eq!(spans(&MAPS.repeat(2), 77, 4 << 20), None);
    }

    #[test]
    fn a_changed_page_is_anonymous_or_swapped() {
        assert!(is_changed(PRESENT) && is_changed(SWAPPED) && is_changed(SWAPPED | OF_FILE));
        assert!(!is_changed(0) && !is_changed(PRESENT | OF_FILE));
        assert!(is_touched(PRESENT | OF_FILE) && is_touched(SWAPPED) && !is_touched(OF_FILE));
    }

    #[test]
    fn parts_cover_a_span_once() {
        let span = Span {
            address: 1 << 30,
            offset: 0,
            length: 2 * PART_BYTES + PAGE,
        };
        let parts: Vec<Span> = span.parts().collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(
            parts.iter().map(|part| part.length).sum::<u64>(),
            span.length
        );
        assert_eq!(parts[2].offset, 2 * PART_BYTES);
    }
}
