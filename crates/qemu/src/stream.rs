//! QEMU's migration stream: guest memory is taken out of it and put into a file of its own.
//!
//! A snapshot is a memory file that can be mapped and a small state. Memory that is a shared file
//! is not in the stream at all; any other memory is, page by page, and is moved here. What comes
//! out is what QEMU would have written had the memory been a shared file, which is what a restore
//! loads.
//!
//! ```text
//! magic "QEVM", version 3                       be32 each
//! 0x07 configuration: machine name, subsections 0x05
//! 0x01 start  "ram": blocks and their lengths   footer 0x7e
//! 0x02 part   "ram": pages                      footer
//! 0x08 command, from QEMU 10 on: the end begins
//! 0x03 end    "ram": pages                      footer
//! 0x04 full   one per device, and on to the end: copied as it is
//! 0x00        end
//! 0x06 description: be32 length, JSON; for people
//! ```
//! Source: QEMU 7.2 and 10.0 `migration/savevm.c`, `migration/ram.c`, `docs/devel/migration.rst`.
//!
//! Invariant: what is neither memory nor a device is passed through as it is, if it tells its length.
//! A stream of which it is not sure where its memory is, or where its devices begin, is refused.

mod preamble;
mod tape;

use std::io::{self, Read, Write};

use preamble::{Commands, copy_configuration};
use tape::Tape;

const MAGIC: u32 = 0x5145_564d;
const VERSION: u32 = 3;
const CONFIGURATION: u8 = 0x07;
const SUBSECTION: u8 = 0x05;
const SECTION_START: u8 = 0x01;
const SECTION_PART: u8 = 0x02;
const SECTION_END: u8 = 0x03;
const SECTION_FULL: u8 = 0x04;
const COMMAND: u8 = 0x08;
const FOOTER: u8 = 0x7e;
const END: u8 = 0x00;
const DESCRIPTION: u8 = 0x06;

/// `RAM_SAVE_FLAG_*`; the low bits of a page's offset.
const FLAG_ZERO: u64 = 0x02;
const FLAG_SIZES: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_END: u64 = 0x10;
const FLAG_SAME_BLOCK: u64 = 0x20;
const PAGE_BYTES: usize = 4096;
const FLAGS: u64 = 0xfff;

/// A machine has a handful of memory blocks: guest memory and its firmware.
const MAX_BLOCKS: usize = 64;

/// Takes a guest's memory pages in the order in which they come. A page comes again when the guest
/// has changed it since; the last one counts.
pub(crate) trait PageSink {
    /// Puts a page at `offset` bytes from the start of guest memory.
    fn put(&mut self, offset: u64, page: &[u8; PAGE_BYTES]) -> io::Result<()>;

    /// Puts a page of zeroes there.
    fn clear(&mut self, offset: u64) -> io::Result<()>;
}

/// Copies a stream from `input` to `output` without guest memory, which is the one block of
/// `memory_bytes` bytes and goes to `pages`.
pub(crate) fn split(
    input: impl Read,
    output: impl Write,
    memory_bytes: u64,
    pages: &mut impl PageSink,
) -> io::Result<()> {
    let mut tape = Tape { input, output };
    head(&mut tape, memory_bytes, pages)?;
    tape.output.write_all(&[SECTION_FULL])?;
    io::copy(&mut tape.input, &mut tape.output)?;
    tape.output.flush()
}

/// What comes ahead of the devices in a stream that has no guest memory.
pub(crate) fn read_head(input: impl Read, memory_bytes: u64) -> io::Result<Vec<u8>> {
    let mut tape = Tape {
        input,
        output: Vec::new(),
    };
    head(&mut tape, memory_bytes, &mut NoPages)?;
    Ok(tape.output)
}

/// Checks that `state`, as QEMU writes it without memory, is whole, and returns its sections.
///
/// ```text
/// magic "QEVM", version 3, then 0x04 full, one per device, and 0x00 at the end
/// ```
pub(crate) fn device_sections(state: &[u8]) -> io::Result<&[u8]> {
    let start = [MAGIC.to_be_bytes(), VERSION.to_be_bytes()].concat();
    match state.strip_prefix(start.as_slice()) {
        Some(sections @ [SECTION_FULL, .., END]) => Ok(sections),
        _ => Err(malformed("the devices' state has no beginning or no end")),
    }
}

/// The description that a stream ends with; QEMU reads past it, and says so when there is none.
pub(crate) const NO_DESCRIPTION: [u8; 7] = [DESCRIPTION, 0, 0, 0, 2, b'{', b'}'];

/// A sink for streams that have no memory in them.
pub(crate) struct NoPages;

impl PageSink for NoPages {
    fn put(&mut self, _: u64, _: &[u8; PAGE_BYTES]) -> io::Result<()> {
        Err(malformed(
            "guest memory came in the stream though it is a file",
        ))
    }

    fn clear(&mut self, offset: u64) -> io::Result<()> {
        self.put(offset, &[0; PAGE_BYTES])
    }
}

/// Copies up to the first device, whose section's first byte is read and not written.
fn head(
    tape: &mut Tape<impl Read, impl Write>,
    memory_bytes: u64,
    pages: &mut impl PageSink,
) -> io::Result<()> {
    tape.expect_u32(MAGIC)?;
    tape.expect_u32(VERSION)?;
    let mut ram = Ram {
        memory_bytes,
        section: None,
        ended: false,
        memory_block: None,
        in_memory: false,
    };
    let mut commands = Commands::default();
    let mut kind = copy_configuration(tape)?;
    loop {
        match kind {
            SECTION_START | SECTION_PART | SECTION_END => ram.section(tape, kind, pages)?,
            COMMAND => commands.copy(kind, tape)?,
            // Memory comes before all devices.
            SECTION_FULL if ram.ended => return Ok(()),
            SECTION_FULL => return Err(malformed("devices come before the end of memory")),
            other => return Err(unknown("section", u64::from(other))),
        }
        kind = tape.read_u8()?;
    }
}

struct Ram {
    memory_bytes: u64,
    section: Option<u32>,
    /// Whether its last section was read.
    ended: bool,
    /// Name of the block that is guest memory; `None` if it is not in the stream.
    memory_block: Option<Vec<u8>>,
    /// Whether the last page was of it; a page of the same block has no name, not even if it is
    /// the first of its section.
    in_memory: bool,
}

impl Ram {
    fn section(
        &mut self,
        tape: &mut Tape<impl Read, impl Write>,
        kind: u8,
        pages: &mut impl PageSink,
    ) -> io::Result<()> {
        tape.output.write_all(&[kind])?;
        let id = tape.copy_u32()?;
        if kind == SECTION_START {
            if tape.copy_name()? != b"ram" || self.section.replace(id).is_some() {
                return Err(malformed("a section that streams is not guest memory"));
            }
            // Instance and version.
            tape.copy_u32()?;
            if tape.copy_u32()? != 4 {
                return Err(malformed("the memory section has an unknown version"));
            }
        } else if self.section != Some(id) || self.ended {
            return Err(malformed("a section continues that did not start"));
        }
        self.ended = kind == SECTION_END;
        self.records(tape, pages)?;
        if tape.copy_u8()? != FOOTER || tape.copy_u32()? != id {
            return Err(malformed("a section has no end"));
        }
        Ok(())
    }

    fn records(
        &mut self,
        tape: &mut Tape<impl Read, impl Write>,
        pages: &mut impl PageSink,
    ) -> io::Result<()> {
        loop {
            let word = tape.read_u64()?;
            let (offset, flags) = (word & !FLAGS, word & FLAGS);
            match flags & !FLAG_SAME_BLOCK {
                FLAG_END => return tape.write_u64(word),
                FLAG_SIZES => {
                    tape.write_u64(word)?;
                    self.sizes(tape, offset)?;
                }
                kind @ (FLAG_ZERO | FLAG_PAGE) => {
                    let mut name = None;
                    if flags & FLAG_SAME_BLOCK == 0 {
                        let read = tape.read_name()?;
                        self.in_memory = self.memory_block.as_ref() == Some(&read);
                        name = Some(read);
                    }
                    if self.in_memory {
                        self.memory_page(tape, offset, kind, pages)?;
                    } else {
                        tape.write_u64(word)?;
                        if let Some(name) = name {
                            tape.write_name(&name)?;
                        }
                        tape.copy(if kind == FLAG_ZERO { 1 } else { PAGE_BYTES })?;
                    }
                }
                other => return Err(unknown("memory record", other)),
            }
        }
    }

    fn memory_page(
        &self,
        tape: &mut Tape<impl Read, impl Write>,
        offset: u64,
        kind: u64,
        pages: &mut impl PageSink,
    ) -> io::Result<()> {
        if offset >= self.memory_bytes {
            return Err(malformed("a page lies outside guest memory"));
        }
        if kind == FLAG_PAGE {
            let mut page = [0; PAGE_BYTES];
            tape.input.read_exact(&mut page)?;
            return pages.put(offset, &page);
        }
        match tape.read_u8()? {
            0 => pages.clear(offset),
            byte => pages.put(offset, &[byte; PAGE_BYTES]),
        }
    }

    /// Blocks with their lengths, and with their guest addresses, which `x-ignore-shared` adds.
    fn sizes(&mut self, tape: &mut Tape<impl Read, impl Write>, total: u64) -> io::Result<()> {
        let mut left = total;
        for _ in 0..MAX_BLOCKS {
            if left == 0 {
                return Ok(());
            }
            let name = tape.copy_name()?;
            let length = tape.copy_u64()?;
            tape.copy_u64()?;
            left = left
                .checked_sub(length)
                .ok_or_else(|| malformed("memory blocks are larger than their sum"))?;
            if length == self.memory_bytes && self.memory_block.replace(name).is_some() {
                return Err(malformed("two memory blocks are as large as guest memory"));
            }
        }
        Err(malformed("there are too many memory blocks"))
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn unknown(what: &str, value: u64) -> io::Error {
    let text = format!("the migration stream has an unknown {what} {value:#x}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
