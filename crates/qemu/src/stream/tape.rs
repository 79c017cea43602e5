//! The two sides of a stream that is copied: what is read and not written is taken out.

use std::io::{self, Read, Write};

use super::{PAGE_BYTES, malformed};

/// The two streams: what is read and not written is taken out.
pub(super) struct Tape<R, W> {
    pub(super) input: R,
    pub(super) output: W,
}

impl<R: Read, W: Write> Tape<R, W> {
    pub(super) fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn read_u8(&mut self) -> io::Result<u8> {
        self.read::<1>().map(|[byte]| byte)
    }

    pub(super) fn read_u64(&mut self) -> io::Result<u64> {
        self.read().map(u64::from_be_bytes)
    }

    pub(super) fn write_u64(&mut self, word: u64) -> io::Result<()> {
        self.output.write_all(&word.to_be_bytes())
    }

    pub(super) fn read_name(&mut self) -> io::Result<Vec<u8>> {
        let length = self.read_u8()?;
        let mut name = vec![0; usize::from(length)];
        self.input.read_exact(&mut name)?;
        Ok(name)
    }

    pub(super) fn write_name(&mut self, name: &[u8]) -> io::Result<()> {
        let length = u8::try_from(name.len()).map_err(io::Error::other)?;
        self.output.write_all(&[length])?;
        self.output.write_all(name)
    }

    pub(super) fn copy(&mut self, mut count: usize) -> io::Result<()> {
        let mut buffer = [0; PAGE_BYTES];
        while count > 0 {
            let part = count.min(buffer.len());
            self.input.read_exact(&mut buffer[..part])?;
            self.output.write_all(&buffer[..part])?;
            count -= part;
        }
        Ok(())
    }

    pub(super) fn copy_u8(&mut self) -> io::Result<u8> {
        let byte = self.read_u8()?;
        self.output.write_all(&[byte])?;
        Ok(byte)
    }

    pub(super) fn copy_u16(&mut self) -> io::Result<u16> {
        let bytes = self.read()?;
        self.output.write_all(&bytes)?;
        Ok(u16::from_be_bytes(bytes))
    }

    pub(super) fn copy_u32(&mut self) -> io::Result<u32> {
        let bytes = self.read()?;
        self.output.write_all(&bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn copy_u64(&mut self) -> io::Result<u64> {
        let word = self.read_u64()?;
        self.write_u64(word)?;
        Ok(word)
    }

    pub(super) fn copy_name(&mut self) -> io::Result<Vec<u8>> {
        let name = self.read_name()?;
        self.write_name(&name)?;
        Ok(name)
    }

    pub(super) fn expect_u32(&mut self, expected: u32) -> io::Result<()> {
        if self.copy_u32()? == expected {
            Ok(())
        } else {
            Err(malformed("it is not a version 3 migration stream"))
        }
    }
}
