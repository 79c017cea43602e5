//! Extended attributes behind an inode.
//!
//! ```text
//! [name filter: u32][shared count: u8][reserved: 7]        absent if there are no attributes
//! { [name length: u8][name index: u8][value length: u16 LE][name][value][padding to 4] } …
//! ```
//!
//! *Source:* Linux v6.12 fs/erofs/erofs_fs.h, `struct erofs_xattr_ibody_header` and
//! `struct erofs_xattr_entry`.

use super::bits::{XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES};
use crate::tree::{Xattr, XattrNamespace};

/// Longest value: its length has 16 bits.
pub(crate) const MAX_VALUE_BYTES: usize = u16::MAX as usize;
/// Longest attributes of one inode: `i_xattr_icount` has 16 bits and counts from 1 for the header.
pub(crate) const MAX_BODY_BYTES: usize =
    XATTR_HEADER_BYTES + (u16::MAX as usize - 1) * XATTR_ENTRY_BYTES;

/// Bytes that `xattrs` take behind an inode.
pub(crate) fn body_bytes(xattrs: &[Xattr]) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    let entry = |xattr: &Xattr| {
        (XATTR_ENTRY_BYTES + xattr.name.len() + xattr.value.len())
            .next_multiple_of(XATTR_ENTRY_BYTES)
    };
    XATTR_HEADER_BYTES + xattrs.iter().map(entry).sum::<usize>()
}

/// The inode's `i_xattr_icount` for a body of so many bytes.
pub(super) fn count(body_bytes: usize) -> u16 {
    let units = match body_bytes.checked_sub(XATTR_HEADER_BYTES) {
        Some(entries) => entries / XATTR_ENTRY_BYTES + 1,
        None => 0,
    };
    u16::try_from(units).expect("attributes are bounded when a layer is read")
}

/// Appends the body.
pub(super) fn encode(xattrs: &[Xattr], to: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    let start = to.len();
    // No filter (its feature is off), no shared attributes.
    to.extend_from_slice(&[0; XATTR_HEADER_BYTES]);
    for xattr in xattrs {
        let bounded = "attributes are bounded when a layer is read";
        to.push(u8::try_from(xattr.name.len()).expect(bounded));
        to.push(index(xattr.namespace));
        let value_len = u16::try_from(xattr.value.len()).expect(bounded);
        to.extend_from_slice(&value_len.to_le_bytes());
        to.extend_from_slice(&xattr.name);
        to.extend_from_slice(&xattr.value);
        let len = (to.len() - start).next_multiple_of(XATTR_ENTRY_BYTES);
        to.resize(start + len, 0);
    }
}

/// `EROFS_XATTR_INDEX_*`.
fn index(namespace: XattrNamespace) -> u8 {
    match namespace {
        XattrNamespace::User => 1,
        XattrNamespace::AclAccess => 2,
        XattrNamespace::AclDefault => 3,
        XattrNamespace::Trusted => 4,
        XattrNamespace::Security => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoded_length_is_the_predicted_one() {
        let xattr = |name: &str, value: &[u8]| Xattr {
            namespace: XattrNamespace::User,
            name: name.as_bytes().into(),
            value: value.into(),
        };
        for xattrs in [
            vec![],
            vec![xattr("a", b"")],
            vec![xattr("ab", b"xyz"), xattr("c", b"1")],
        ] {
            let mut body = Vec::new();
            encode(&xattrs, &mut body);
            assert_eq!(body.len(), body_bytes(&xattrs));
        }
        assert_eq!(count(0), 0);
        assert_eq!(count(MAX_BODY_BYTES), u16::MAX);
    }
}
