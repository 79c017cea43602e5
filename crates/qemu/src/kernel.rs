//! Whether a file is a kernel that QEMU can start, told before QEMU is.
//!
//! Source: ELF-64 and the Xen notes (`xen/include/public/elfnote.h`); Linux
//! `Documentation/arch/x86/boot.rst`.

use std::{
    fs::File,
    io::{self, ErrorKind as IoKind},
    os::unix::fs::FileExt,
    path::Path,
};

use cofferdam_backend::{Error, ErrorKind, Result};

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry point.
const PVH_NOTE: u32 = 18;
/// `PT_NOTE`.
const NOTE_SEGMENT: u32 = 4;
/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;
/// Size of an ELF-64 program header.
const PROGRAM_HEADER_BYTES: u64 = 56;
/// Linux has fewer than ten program headers, and its notes are a few hundred bytes.
const MAX_PROGRAM_HEADERS: u16 = 64;
const MAX_NOTES_BYTES: u64 = 64 << 10;

/// Refuses a file that is no kernel.
pub(crate) fn check(path: &Path) -> Result<()> {
    let invalid = |what: &str| {
        let what = format!("The kernel `{}` {what}", path.display());
        Error::new(ErrorKind::InvalidSpec, what)
    };
    let found = File::open(path)
        .and_then(|file| recognise(&file))
        .map_err(|error| invalid("cannot be read").because(error))?;
    let hint = "Use an uncompressed `vmlinux` built with CONFIG_PVH, or a `bzImage`";
    match found {
        Found::Kernel => Ok(()),
        Found::NoPvhEntry => Err(invalid("has no PVH entry point").hint(hint)),
        Found::NotAKernel => Err(invalid("is not an x86-64 Linux kernel").hint(hint)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Kernel,
    NoPvhEntry,
    NotAKernel,
}

fn recognise(file: &File) -> io::Result<Found> {
    let mut head = [0; 0x210];
    match file.read_exact_at(&mut head, 0) {
        Err(error) if error.kind() == IoKind::UnexpectedEof => return Ok(Found::NotAKernel),
        other => other?,
    }
    // Boot sector signature and header magic.
    if head[0x1fe..0x200] == [0x55, 0xaa] && head[0x202..0x206] == *b"HdrS" {
        return Ok(Found::Kernel);
    }
    // ELF, 64 bits, little-endian.
    if head[..6] != *b"\x7fELF\x02\x01" || u16_at(&head, 18) != Some(MACHINE_X86_64) {
        return Ok(Found::NotAKernel);
    }
    let found = has_pvh_note(file, &head)?;
    Ok(if found {
        Found::Kernel
    } else {
        Found::NoPvhEntry
    })
}

fn has_pvh_note(file: &File, head: &[u8]) -> io::Result<bool> {
    let table = u64_at(head, 32).unwrap_or(0);
    let count = u16_at(head, 56).unwrap_or(0).min(MAX_PROGRAM_HEADERS);
    for index in 0..u64::from(count) {
        let mut header = [0; 56];
        let offset = table.checked_add(index * PROGRAM_HEADER_BYTES);
        let offset = offset.ok_or_else(|| io::Error::from(IoKind::InvalidData))?;
        file.read_exact_at(&mut header, offset)?;
        if u32_at(&header, 0) != Some(NOTE_SEGMENT) {
            continue;
        }
        let (start, size) = (u64_at(&header, 8), u64_at(&header, 32));
        let size = size.unwrap_or(0).min(MAX_NOTES_BYTES);
        let mut notes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        file.read_exact_at(&mut notes, start.unwrap_or(0))?;
        if walk_notes(&notes) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes are `[name size][description size][type]`, then both, each padded to 4 bytes.
fn walk_notes(mut notes: &[u8]) -> bool {
    while let (Some(name), Some(description), Some(kind)) =
        (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8))
    {
        let padded = |size: u32| usize::try_from(size).ok()?.checked_next_multiple_of(4);
        if kind == PVH_NOTE && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let next = padded(name)
            .zip(padded(description))
            .and_then(|(name, description)| name.checked_add(description)?.checked_add(12));
        match next.and_then(|next| notes.get(next..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing;

    fn verdict(bytes: &[u8]) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, bytes).unwrap();
        check(&path)
    }

    #[test]
    fn an_elf_kernel_with_a_pvh_note_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        check(&testing::kernel(dir.path())).unwrap();
    }

    #[test]
    fn an_elf_program_without_the_note_is_refused_by_that_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = fs::read(testing::kernel(dir.path())).unwrap();
        let note = bytes.windows(4).position(|word| word == b"Xen\0").unwrap();
        bytes[note] = b'Y';
        let error = verdict(&bytes).unwrap_err();
        assert!(error.to_string().contains("PVH"), "{error}");
    }

    #[test]
    fn a_boot_image_is_accepted() {
        let mut image = vec![0; 0x400];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        verdict(&image).unwrap();
    }

    #[test]
    fn other_files_are_invalid_specs() {
        for bytes in [&b""[..], b"#!/bin/sh\n", &[0; 4096], b"\x7fELF"] {
            let error = verdict(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSpec);
            assert!(error.hint_text().is_some());
        }
        assert!(check(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn notes_that_lie_about_their_sizes_end_the_walk() {
        let mut note = Vec::new();
        for word in [u32::MAX, u32::MAX, 1] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        assert!(!walk_notes(&note));
    }
}
