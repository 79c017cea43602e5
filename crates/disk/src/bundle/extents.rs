//! The table of extents of a `DATA` part: where its bytes belong in the file.
//!
//! Invariant: extents that [`decode`] returns ascend, do not overlap, lie within the file and have
//! at most [`MAX_PART_DATA_BYTES`] together. Source: the format in the module's head.

use super::format::{
    BLOCK_BYTES, EXTENT_BYTES, MAX_PART_BLOCKS, MAX_PART_DATA_BYTES, damaged, too_large,
};
use crate::error::Result;

/// A run of blocks with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block's number.
    pub(super) first: u64,
    /// Number of blocks, 1 to [`MAX_PART_BLOCKS`].
    pub(super) count: u32,
}

impl Run {
    /// The number of the block after the run.
    pub(super) fn end(self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// A run of bytes with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Offset in the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) bytes: usize,
}

/// Appends the table of `runs` to `payload`. `cursor` is the block after the last run so far.
pub(super) fn encode(runs: &[Run], mut cursor: u64, payload: &mut Vec<u8>) -> Result<()> {
    payload.extend_from_slice(&narrow(runs.len() as u64)?.to_le_bytes());
    for run in runs {
        payload.extend_from_slice(&narrow(run.first - cursor)?.to_le_bytes());
        payload.extend_from_slice(&run.count.to_le_bytes());
        cursor = run.end();
    }
    Ok(())
}

/// A number of runs or blocks as the format has it; files of 2^31 blocks always fit.
fn narrow(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|error| {
        too_large(format!("A table of extents cannot hold {number}")).because(error)
    })
}

/// The decoded table of a part.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// Where the part's bytes belong, in order.
    pub(super) extents: Vec<Extent>,
    /// Length of all extents in bytes.
    pub(super) bytes: usize,
    /// The block after the last extent.
    pub(super) cursor: u64,
    /// The payload after the table.
    pub(super) frame: &'a [u8],
}

/// Reads the table at the start of `payload`, for a file of `length` bytes of which everything
/// before block `cursor` was described already.
pub(super) fn decode(payload: &[u8], mut cursor: u64, length: u64) -> Result<Table<'_>> {
    let (count, rest) =
        split_u32(payload).ok_or_else(|| damaged("A table of extents is missing"))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if !(1..=MAX_PART_BLOCKS).contains(&count) {
        return Err(damaged(format!("A part has {count} extents")));
    }
    let (mut table, frame) = rest
        .split_at_checked(count * EXTENT_BYTES)
        .ok_or_else(|| damaged(format!("A table of {count} extents ends too early")))?;
    let (mut extents, mut bytes) = (Vec::with_capacity(count), 0);
    while let Some((skip, rest)) = split_u32(table)
        && let Some((run, rest)) = split_u32(rest)
    {
        table = rest;
        // Each addend is below 2^33: `cursor` is at most the file's length in blocks.
        let first = cursor + u64::from(skip);
        let extent = locate(first, run, length)?;
        bytes += extent.bytes;
        if bytes > MAX_PART_DATA_BYTES {
            return Err(damaged("The extents of a part have more data than fits"));
        }
        extents.push(extent);
        cursor = first + u64::from(run);
    }
    Ok(Table {
        extents,
        bytes,
        cursor,
        frame,
    })
}

/// The bytes of `run` blocks from block `first`, cut at the end of the file.
fn locate(first: u64, run: u32, length: u64) -> Result<Extent> {
    let block = BLOCK_BYTES as u64;
    let outside = || {
        damaged(format!(
            "An extent of {run} blocks at block {first} is not inside a file of {length} bytes"
        ))
    };
    if run == 0 || first + u64::from(run) > length.div_ceil(block) {
        return Err(outside());
    }
    let offset = first * block;
    let end = (offset + u64::from(run) * block).min(length);
    Ok(Extent {
        offset,
        bytes: usize::try_from(end - offset).map_err(|_| outside())?,
    })
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes
        .split_first_chunk()
        .map(|(number, rest)| (u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    const RUNS: [Run; 3] = [
        Run { first: 5, count: 1 },
        Run { first: 6, count: 2 },
        Run {
            first: 99,
            count: 1,
        },
    ];

    fn table(count: u32, pairs: &[(u32, u32)]) -> Vec<u8> {
        let mut payload = count.to_le_bytes().to_vec();
        for (skip, run) in pairs {
            payload.extend_from_slice(&skip.to_le_bytes());
            payload.extend_from_slice(&run.to_le_bytes());
        }
        payload
    }

    #[track_caller]
    fn assert_refused(payload: &[u8], cursor: u64, length: u64) {
        let error = decode(payload, cursor, length).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[test]
    fn a_table_reads_back_and_the_last_block_ends_with_the_file() {
        let mut payload = Vec::new();
        encode(&RUNS, 3, &mut payload).unwrap();
        payload.extend_from_slice(b"frame");
        let table = decode(&payload, 3, 99 * 4096 + 7).unwrap();
        let extents: Vec<_> = table.extents.iter().map(|e| (e.offset, e.bytes)).collect();
        assert_eq!(
            extents,
            [(5 * 4096, 4096), (6 * 4096, 8192), (99 * 4096, 7)]
        );
        assert_eq!((table.bytes, table.cursor), (3 * 4096 + 7, 100));
        assert_eq!(table.frame, b"frame");
    }

    #[test]
    fn a_table_without_extents_is_refused() {
        assert_refused(&[], 0, 4096);
        assert_refused(&[1, 0], 0, 4096);
        assert_refused(&table(0, &[]), 0, 4096);
    }

    #[test]
    fn more_extents_than_blocks_fit_are_refused() {
        let pairs = vec![(0, 1); MAX_PART_BLOCKS + 1];
        let most = u32::try_from(MAX_PART_BLOCKS).unwrap();
        assert!(decode(&table(most, &pairs[1..]), 0, 1 << 40).is_ok());
        assert_refused(&table(most + 1, &pairs), 0, 1 << 40);
        assert_refused(&table(u32::MAX, &pairs), 0, 1 << 40);
    }

    #[test]
    fn a_table_that_is_cut_is_refused() {
        let whole = table(3, &[(0, 1), (0, 1), (0, 1)]);
        for end in 0..whole.len() {
            assert_refused(&whole[..end], 0, 1 << 20);
        }
    }

    #[test]
    fn extents_outside_the_file_are_refused() {
        assert!(decode(&table(1, &[(0, 1)]), 0, 1).is_ok());
        assert_refused(&table(1, &[(0, 1)]), 0, 0);
        assert_refused(&table(1, &[(1, 1)]), 0, 4096);
        assert_refused(&table(1, &[(0, 2)]), 0, 4096);
        assert_refused(&table(1, &[(0, 1)]), 1, 4096);
        assert_refused(&table(1, &[(u32::MAX, u32::MAX)]), 1 << 31, 8 << 40);
    }

    #[test]
    fn empty_extents_are_refused() {
        assert_refused(&table(2, &[(0, 1), (1, 0)]), 0, 1 << 20);
    }

    #[test]
    fn more_data_than_a_part_may_have_is_refused() {
        assert!(decode(&table(1, &[(0, 256)]), 0, 1 << 40).is_ok());
        assert_refused(&table(1, &[(0, 257)]), 0, 1 << 40);
        assert_refused(&table(2, &[(0, 255), (0, 2)]), 0, 1 << 40);
        assert_refused(&table(1, &[(0, 1 << 31)]), 0, 8 << 40);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_ascends_inside_the_file(
            payload in table_bytes(),
            cursor in 0_u64..1000,
            length in 0_u64..(1000 * 4096),
        ) {
            if let Ok(table) = decode(&payload, cursor, length) {
                let mut end = cursor * 4096;
                let mut bytes = 0;
                for extent in &table.extents {
                    prop_assert!(extent.offset >= end && extent.bytes > 0);
                    end = extent.offset + extent.bytes as u64;
                    bytes += extent.bytes;
                }
                prop_assert!(end <= length && bytes == table.bytes);
                prop_assert!(bytes <= MAX_PART_DATA_BYTES);
            }
        }
    }

    /// Tables with small numbers, some of which are right.
    fn table_bytes() -> impl Strategy<Value = Vec<u8>> {
        let pairs = prop::collection::vec((0_u32..300, 0_u32..100), 0..8);
        (pairs, 0..3_usize).prop_map(|(pairs, off)| {
            let count = (pairs.len() + off).saturating_sub(1);
            table(u32::try_from(count).unwrap(), &pairs)
        })
    }
}
