//! A second hand at the format: takes bundles apart and puts anything together under right seals,
//! as someone would who means harm. Written from the format's description, not from its code.

use std::{fs::File, io::Read};

use cofferdam_disk::{BundleLimits, BundleReader, BundleWriter, Result};
use sha2::{Digest, Sha256};

pub(crate) const HEAD_BYTES: usize = 16;

/// One part, without its seal.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) tag: [u8; 4],
    /// What the part says about its payload's length.
    pub(crate) length: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn part(tag: &[u8; 4], payload: impl Into<Vec<u8>>) -> Part {
    let payload = payload.into();
    Part {
        tag: *tag,
        length: u32::try_from(payload.len()).unwrap(),
        payload,
    }
}

/// A `FILE` part.
pub(crate) fn file(length: u64, name: &[u8]) -> Part {
    part(b"FILE", [&length.to_le_bytes(), name].concat())
}

/// A `DATA` part.
pub(crate) fn data(extents: &[(u32, u32)], frame: &[u8]) -> Part {
    let mut payload = u32::try_from(extents.len()).unwrap().to_le_bytes().to_vec();
    for (skip, run) in extents {
        payload.extend_from_slice(&skip.to_le_bytes());
        payload.extend_from_slice(&run.to_le_bytes());
    }
    payload.extend_from_slice(frame);
    part(b"DATA", payload)
}

/// The data of a `DATA` part.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// A right bundle of so many parts that each unpack to 1 MiB.
pub(crate) fn bomb(parts: usize) -> Vec<u8> {
    let (head, _) = take_apart(&small());
    let filled = data(&[(0, 256)], &zstd(&[1; 1 << 20]));
    let mut bomb = vec![part(b"MANI", ""), file(8 << 40, b"memory")];
    bomb.extend(std::iter::repeat_n(filled, parts));
    bomb.extend([part(b"DONE", ""), part(b"LAST", "")]);
    put_together(&head, &bomb)
}

/// Cuts a right bundle into its head and its parts, which keep their seals.
pub(crate) fn cut(bundle: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let (head, mut rest) = bundle.split_at(HEAD_BYTES);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap());
        let (part, after) = rest.split_at(8 + usize::try_from(length).unwrap() + 32);
        parts.push(part);
        rest = after;
    }
    (head, parts)
}

/// Takes a right bundle apart.
pub(crate) fn take_apart(bundle: &[u8]) -> (Vec<u8>, Vec<Part>) {
    let (head, parts) = cut(bundle);
    let unsealed = |sealed: &&[u8]| {
        part(
            &sealed[..4].try_into().unwrap(),
            &sealed[8..sealed.len() - 32],
        )
    };
    (head.to_vec(), parts.iter().map(unsealed).collect())
}

/// Puts a bundle together and seals every part of it.
pub(crate) fn put_together(head: &[u8], parts: &[Part]) -> Vec<u8> {
    let mut bundle = head.to_vec();
    for part in parts {
        bundle.extend_from_slice(&part.tag);
        bundle.extend_from_slice(&part.length.to_le_bytes());
        bundle.extend_from_slice(&part.payload);
        bundle.extend_from_slice(&Sha256::digest(&bundle));
    }
    bundle
}

/// A bundle of a manifest, a file of two extents and a smaller one.
pub(crate) fn small() -> Vec<u8> {
    let mut writer = BundleWriter::new(Vec::new(), b"manifest").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut memory = vec![0; 5 * 4096 + 100];
    memory[4096..4102].copy_from_slice(b"second");
    memory[5 * 4096 + 95..].copy_from_slice(b"last.");
    for (name, content) in [("memory", memory.as_slice()), ("state", b"state")] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        writer.add(name, &File::open(path).unwrap()).unwrap();
    }
    writer.finish().unwrap()
}

/// Reads a bundle to its end, every file into `target` in turn; returns the names and lengths.
pub(crate) fn read(
    input: impl Read,
    limits: BundleLimits,
    target: &File,
) -> Result<Vec<(String, u64)>> {
    let mut reader = BundleReader::open(input, limits)?;
    let mut files = Vec::new();
    while let Some(file) = reader.next_file()? {
        files.push((file.name().to_owned(), file.length()));
        file.extract(target)?;
    }
    reader.finish()?;
    Ok(files)
}
