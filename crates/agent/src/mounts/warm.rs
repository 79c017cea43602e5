//! Reads what almost every program of an image needs, before a template of it is captured.
//!
//! A fork then finds it in memory: under emulation the first read of a disk costs more than all
//! the rest of a start. Nothing of the image is run.

use std::io::Read;

use rustix::fs::{Dir, FileType, OFlags, fstat};

use super::{Root, resolve};

/// Shells, what loaders look for at each start, and the loaders and C libraries of the Debian, Red
/// Hat and Alpine families.
/// That some are missing is remembered too.
const FILES: [&str; 16] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/etc/ld-musl-x86_64.path",
    "/bin/sh",
    "/bin/bash",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/lib/x86_64-linux-gnu/libtinfo.so.6",
    "/lib64/libc.so.6",
    "/lib64/libm.so.6",
    "/lib64/libtinfo.so.6",
    "/lib/ld-musl-x86_64.so.1",
    "/usr/bin/env",
];

/// Where programs are; with their inodes in memory, the first one starts without a disk read.
const DIRECTORIES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Most bytes read of one of [`FILES`].
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Bytes read of each program: its headers and, of a small one, all.
const PROGRAM_BYTES: u64 = 64 << 10;

/// Most programs of one directory: a Debian has some 300 in `/usr/bin`.
const MAX_PROGRAMS: usize = 1024;

/// Most bytes read of programs together, so that a template stays small.
const MAX_PROGRAM_BYTES: u64 = 24 << 20;

/// Brings [`FILES`] and the programs of [`DIRECTORIES`] into memory; one that is not there is not
/// needed.
pub(crate) fn warm(root: &Root) {
    for path in FILES {
        read(root, path, MAX_FILE_BYTES);
    }
    let mut left = MAX_PROGRAM_BYTES;
    for directory in DIRECTORIES {
        for name in programs(root, directory) {
            left = left.saturating_sub(read(root, &name, PROGRAM_BYTES.min(left)));
        }
    }
}

/// The paths of a directory's entries, in its own order.
fn programs(root: &Root, directory: &str) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let entries = resolve::open(&root.directory, directory, flags)
        .ok()
        .and_then(|fd| Dir::read_from(fd).ok());
    entries
        .into_iter()
        .flatten()
        .take(MAX_PROGRAMS)
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().to_str().ok()?;
            (!name.starts_with('.')).then(|| format!("{directory}/{name}"))
        })
        .collect()
}

/// Reads the first `limit` bytes of a file; returns how many there were.
fn read(root: &Root, path: &str, limit: u64) -> u64 {
    let Ok(file) = resolve::open(&root.directory, path, OFlags::RDONLY | OFlags::NONBLOCK) else {
        return 0;
    };
    let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    if !fstat(&file).is_ok_and(|stat| is_file(stat.st_mode)) {
        return 0;
    }
    let mut file = std::fs::File::from(file).take(limit);
    let mut chunk = [0; 64 << 10];
    let mut total = 0;
    while let Ok(count @ 1..) = file.read(&mut chunk) {
        total += count as u64;
    }
    total
}
