//! Exported snapshots taken apart and put together again, by the description of their form alone:
//! what a stranger could write.
//!
//! Form: the head of `crates/disk/src/bundle/mod.rs`, version 1.

use std::fmt;

use sha2::{Digest, Sha256};

/// Magic, version and flags.
const HEAD_BYTES: usize = 16;

/// SHA-256 behind each part.
const SEAL_BYTES: usize = 32;

/// A bundle in parts.
#[derive(Clone)]
pub struct Bundle {
    /// Magic, version and flags.
    pub head: Vec<u8>,
    /// The parts in order, without their seals.
    pub parts: Vec<Part>,
}

/// One part.
#[derive(Clone)]
pub struct Part {
    /// `MANI`, `FILE`, `DATA`, `DONE` or `LAST`.
    pub kind: [u8; 4],
    /// What it holds.
    pub payload: Vec<u8>,
}

impl Bundle {
    /// Takes a bundle apart.
    ///
    /// # Panics
    /// When it is none, or damaged.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let (head, mut rest) = bytes.split_at(HEAD_BYTES);
        let mut seal = Sha256::new_with_prefix(head);
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let length: [u8; 4] = rest[4..8].try_into().expect("a length has four bytes");
            let end = 8 + usize::try_from(u32::from_le_bytes(length)).expect("it fits");
            seal.update(&rest[..end]);
            let expected = seal.clone().finalize();
            assert_eq!(rest[end..end + SEAL_BYTES], expected[..], "a seal is right");
            seal.update(expected);
            parts.push(Part {
                kind: rest[..4].try_into().expect("a kind has four bytes"),
                payload: rest[8..end].to_vec(),
            });
            rest = &rest[end + SEAL_BYTES..];
        }
        Self {
            head: head.to_vec(),
            parts,
        }
    }

    /// Puts it together, with seals that fit whatever is in it.
    ///
    /// # Panics
    /// When a part is larger than its length can say.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        // Each seal is over all that came before, so one hash goes along.
        let mut seal = Sha256::new_with_prefix(&bytes);
        for part in &self.parts {
            let begin = bytes.len();
            let length = u32::try_from(part.payload.len()).expect("a part fits its length");
            bytes.extend(part.kind);
            bytes.extend(length.to_le_bytes());
            bytes.extend(&part.payload);
            seal.update(&bytes[begin..]);
            let sealed = seal.clone().finalize();
            seal.update(sealed);
            bytes.extend(sealed);
        }
        bytes
    }

    /// The manifest.
    ///
    /// # Panics
    /// When the first part is something else.
    #[must_use]
    pub fn manifest(&self) -> serde_json::Value {
        assert_eq!(&self.parts[0].kind, b"MANI");
        serde_json::from_slice(&self.parts[0].payload).expect("the manifest is JSON")
    }

    /// The same bundle with another manifest.
    #[must_use]
    pub fn with_manifest(&self, manifest: &serde_json::Value) -> Self {
        let mut bundle = self.clone();
        bundle.parts[0].payload = manifest.to_string().into_bytes();
        bundle
    }

    /// Where the parts of a file are: from its `FILE` to its `DONE`.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn file(&self, name: &str) -> std::ops::Range<usize> {
        let is_it = |part: &Part| part.kind == *b"FILE" && part.payload[8..] == *name.as_bytes();
        let begin = self.parts.iter().position(is_it);
        let begin = begin.unwrap_or_else(|| panic!("no file `{name}`"));
        let ends = |part: &Part| part.kind == *b"DONE";
        let length = self.parts[begin..].iter().position(ends);
        begin..begin + length.expect("a file ends") + 1
    }
}

impl Part {
    /// A part.
    #[must_use]
    pub const fn new(kind: [u8; 4], payload: Vec<u8>) -> Self {
        Self { kind, payload }
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.parts).finish()
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = String::from_utf8_lossy(&self.kind);
        write!(f, "{kind} of {} bytes", self.payload.len())
    }
}
