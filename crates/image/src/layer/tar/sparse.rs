//! Sparse files: which parts of a file the archive holds.
//!
//! Four formats: GNU's own (`S` headers, with the map in the header and in blocks after it) and
//! three kinds of PAX records (0.0: one record per part, 0.1: one record for all, 1.0: a text map
//! before the data).
//! *Source:* GNU tar manual, "Storing Sparse Files" and "Basic Tar Format".

use super::{
    header,
    number::{decimal, unsigned},
};
use crate::{error::Result, layer::corrupt, tree::too_large};

/// Parts of one sparse file; 16 bytes of memory each.
const MAX_PARTS: usize = 1 << 20;

/// A run of bytes that the archive holds; what lies between runs is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// What PAX records said about sparseness.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    version: (Option<u64>, Option<u64>),
    size: Option<u64>,
    real_size: Option<u64>,
    /// Offsets and lengths by turns.
    map: Option<Vec<u64>>,
}

/// Where the map of a sparse entry is.
pub(super) enum MapSource {
    /// In the records.
    Known(Vec<u64>),
    /// In front of the data, as text (format 1.0).
    InData,
}

impl PaxSparse {
    /// Takes a record if it is about sparseness.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<bool> {
        let Some(field) = key.strip_prefix(b"GNU.sparse.") else {
            return Ok(false);
        };
        match field {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.version.0 = Some(unsigned(key, value)?),
            b"minor" => self.version.1 = Some(unsigned(key, value)?),
            b"size" => self.size = Some(unsigned(key, value)?),
            b"realsize" => self.real_size = Some(unsigned(key, value)?),
            b"map" => {
                let numbers = value
                    .split(|&byte| byte == b',')
                    .filter(|part| !part.is_empty());
                let numbers = numbers.map(|part| unsigned(key, part));
                self.map = Some(numbers.collect::<Result<_>>()?);
            }
            b"offset" | b"numbytes" => {
                let map = self.map.get_or_insert_default();
                // Offset and length must come by turns.
                if map.len().is_multiple_of(2) != (field == b"offset") {
                    return Err(corrupt("A sparse map has its records out of order"));
                }
                map.push(unsigned(key, value)?);
            }
            _ => {}
        }
        Ok(true)
    }

    /// The map's place and the real size of the file, if the entry is sparse.
    pub(super) fn finish(&mut self) -> Result<Option<(MapSource, u64)>> {
        let source = match (self.version, self.map.take()) {
            ((Some(1), Some(0)), _) => MapSource::InData,
            ((Some(0), Some(0 | 1)) | (None, None), Some(map)) => MapSource::Known(map),
            ((None, None), None) => return Ok(None),
            _ => return Err(corrupt("A sparse file is of an unknown format")),
        };
        let size = self.real_size.or(self.size);
        let size = size.ok_or_else(|| corrupt("A sparse file does not tell its size"))?;
        Ok(Some((source, size)))
    }
}

/// Checks a map: in order, without overlap, inside the file, and of `stored` bytes in all.
pub(super) fn parts(map: &[u64], size: u64, stored: u64) -> Result<Vec<Part>> {
    if map.len() / 2 > MAX_PARTS {
        return Err(too_large(format!(
            "A sparse file has more than {MAX_PARTS} parts"
        )));
    }
    if !map.len().is_multiple_of(2) {
        return Err(corrupt("A sparse map is cut short"));
    }
    let (mut end, mut total) = (0_u64, 0_u64);
    let mut parts = Vec::with_capacity(map.len() / 2);
    for pair in map.chunks_exact(2) {
        let (offset, len) = (pair[0], pair[1]);
        let part_end = offset.checked_add(len).filter(|&part_end| part_end <= size);
        match part_end {
            Some(part_end) if offset >= end => end = part_end,
            _ => return Err(corrupt("A sparse map is out of order or out of bounds")),
        }
        total += len;
        parts.push(Part { offset, len });
    }
    if total != stored {
        return Err(corrupt("A sparse map does not match the data"));
    }
    Ok(parts)
}

/// Collects the map of a GNU `S` header: `take` gives its extension blocks.
pub(super) fn gnu_map(
    header: &header::Header<'_>,
    mut take: impl FnMut() -> Result<[u8; header::BLOCK_BYTES]>,
) -> Result<(Vec<u64>, u64)> {
    // Offsets from GNU tar's `struct oldgnu_header` and `struct sparse_header`.
    const PAIR_BYTES: usize = 24;
    let bad = || corrupt("A sparse map is not made of numbers");
    let size = header::number(header.field(483..495)).and_then(|size| u64::try_from(size).ok());
    let mut map = Vec::new();
    let mut extend = |pairs: &[u8]| {
        for field in pairs
            .chunks_exact(PAIR_BYTES)
            .take_while(|pair| pair[0] != 0)
        {
            let (offset, len) = field.split_at(PAIR_BYTES / 2);
            for number in [offset, len] {
                let number = header::number(number).and_then(|number| u64::try_from(number).ok());
                map.push(number.ok_or_else(bad)?);
            }
        }
        if map.len() / 2 > MAX_PARTS {
            return Err(too_large(format!(
                "A sparse file has more than {MAX_PARTS} parts"
            )));
        }
        Ok(())
    };
    extend(header.field(386..482))?;
    let mut is_extended = header.field(482..483) != [0];
    while is_extended {
        let block = take()?;
        extend(&block[..504])?;
        is_extended = block[504] != 0;
    }
    Ok((map, size.ok_or_else(bad)?))
}

/// Reads the text map of format 1.0: a count, then offsets and lengths, one number a line, padded
/// to whole blocks. `take` gives the next block of the data.
pub(super) fn text_map(
    mut take: impl FnMut() -> Result<[u8; header::BLOCK_BYTES]>,
) -> Result<Vec<u64>> {
    let mut block = [0; header::BLOCK_BYTES];
    let mut position = block.len();
    let mut number = || {
        let mut digits = Vec::new();
        loop {
            if position == block.len() {
                block = take()?;
                position = 0;
            }
            let byte = block[position];
            position += 1;
            match byte {
                b'\n' => break,
                // A u64 has at most 20 digits.
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(corrupt("A sparse map is not made of numbers")),
            }
        }
        decimal(&digits).ok_or_else(|| corrupt("A sparse map is not made of numbers"))
    };
    let count = number()?;
    if count > MAX_PARTS as u64 {
        return Err(too_large(format!(
            "A sparse file has more than {MAX_PARTS} parts"
        )));
    }
    (0..count * 2).map(|_| number()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_corrupt() {
        assert_eq!(parts(&[0, 4, 8, 2], 10, 6).unwrap().len(), 2);
        for (map, size, stored) in [
            (&[0, 4, 2, 4][..], 10, 8),
            (&[8, 4], 10, 4),
            (&[4, 1, 0, 1], 10, 2),
            (&[0, 4], 10, 5),
            (&[0], 10, 0),
            (&[u64::MAX, 2], u64::MAX, 2),
        ] {
            assert!(parts(map, size, stored).is_err(), "{map:?}");
        }
    }
}
