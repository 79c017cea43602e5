//! Reads what almost every program of an image needs, before a template of it is captured.
//!
//! A fork then finds it in memory: under emulation the first read of a disk costs more than all
//! the rest of a start. Nothing of the image is run.

use std::io::Read;

use rustix::fs::{FileType, OFlags, fstat};

use super::{Root, resolve};

/// Shells, and the loaders and C libraries of Debian, Red Hat and Alpine families.
const FILES: [&str; 14] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
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

/// Most bytes read of one file.
const MAX_BYTES: u64 = 8 << 20;

/// Brings [`FILES`] into memory; one that is not there is not needed.
pub(crate) fn warm(root: &Root) {
    for path in FILES {
        let Ok(file) = resolve::open(&root.directory, path, OFlags::RDONLY | OFlags::NONBLOCK)
        else {
            continue;
        };
        let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
        if fstat(&file).is_ok_and(|stat| is_file(stat.st_mode)) {
            let mut file = std::fs::File::from(file).take(MAX_BYTES);
            let mut chunk = [0; 64 << 10];
            while file.read(&mut chunk).is_ok_and(|count| count > 0) {}
        }
    }
}
