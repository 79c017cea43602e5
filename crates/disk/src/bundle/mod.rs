//! Bundles: several sparse files and a manifest in one file that can be piped, sent and checked.
//!
//! Called by `runtime` to export and import snapshots. A bundle comes from a stranger: whatever it
//! says, the reader uses a fixed amount of memory, writes no more than its [`BundleLimits`], and
//! ends in a typed error or in the very files that were added. A bundle is not signed: the seals
//! below find damage, not malice; what a manifest claims is for the caller to judge.
//!
//! # Format, version 1
//!
//! Integers are unsigned and little-endian. Neither writing nor reading seeks.
//!
//! ```text
//! bundle = head, MANI, { FILE, { DATA }, DONE }, LAST        and nothing after it
//!
//! head:  0  magic    8  89 43 44 42 0d 0a 1a 0a
//!        8  version  4  1
//!       12  flags    4  0; version 1 has none
//!
//! part:  0  kind     4  one of the five names above, in ASCII
//!        4  length   4  of the payload
//!        8  payload  …
//!           seal    32  SHA-256 of every byte of the bundle before the seal, older seals included
//!
//! MANI:  opaque bytes, at most 1 MiB
//!
//! FILE:  0  length   8  of the file, at most 8 TiB; whatever no DATA part covers is zero
//!        8  name     …  1 to 64 of a-z 0-9 . _ -, the first of a-z 0-9; once in a bundle
//!
//! DATA:  0  extents  4  n, 1 to 256
//!        4  table  8·n  skip u32, run u32: blocks of 4096 bytes that are zero since the end of the
//!                       extent before (of the file's last DATA part, at first 0), and blocks that
//!                       follow with data, at least 1; at most 256 blocks in all extents together
//!           data     …  one zstd frame (RFC 8878) without a dictionary: the extents' bytes, one
//!                       after the other; the file's last block ends where the file ends
//!
//! DONE:  empty; the file is complete
//! LAST:  empty; its seal is the digest of the whole bundle
//! ```
//!
//! Why so: a table of skips cannot express extents that overlap or go back. A seal over all that
//! came before makes each part's place as certain as its content, and a part is decoded only after
//! its seal was checked. 1 MiB of data to a part bounds the memory of both sides; that frames know
//! nothing of each other costs 1 to 4 % in size. The magic has PNG's shape (PNG §5.2): a transfer
//! that drops high bits or rewrites line ends breaks the first eight bytes.
//!
//! The first twelve bytes stay as they are in every version, so that a reader can always name the
//! version it does not know.

mod extents;
mod format;
mod limits;
mod parts;
mod reader;
mod writer;

pub use limits::BundleLimits;
pub use reader::{BundleFile, BundleReader};
pub use writer::BundleWriter;

/// Told how many bytes are done so far; never less than the time before.
type Progress = Box<dyn FnMut(u64) + Send>;
