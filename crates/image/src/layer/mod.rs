//! OCI layers: compressed tar streams merged, bottom up, into one tree in memory.
//!
//! Called by [`crate::rootfs`]. Nothing of a layer ever becomes a path on the host: names live in
//! [`crate::tree`] only, and file data goes straight from the tar stream to its final place in the
//! image.
//!
//! ```text
//! LayerSource ─► stream (thread: decompress; here: hash, count) ─► tar ─► apply ─► tree + data area
//! ```
//!
//! *Source:* OCI image-spec, layer.md; where it is silent, what `umoci unpack` does as root.

mod apply;
mod resolve;
mod stream;
mod tar;
mod xattrs;

pub(crate) use apply::{apply_layer, ensure_directory};
pub(crate) use stream::MAGIC_BYTES;
pub use stream::{Compression, LayerSource};

use crate::error::{Error, ErrorKind};

/// A name from a layer as people may see it: printable, bounded, in backticks.
fn quoted(name: &[u8]) -> String {
    const SHOWN_CHARS: usize = 200;
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().count() > SHOWN_CHARS {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}
