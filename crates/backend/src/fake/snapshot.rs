//! The fake's snapshot files: a memory file that begins with the guest's words, and a state of a few
//! words with a check sum.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use super::Bug;
use crate::{Error, ErrorKind, MachineSpec, Result, SnapshotFiles};

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "The fake's snapshot cannot be written").because(error)
}

pub(super) fn make_memory(path: &Path, memory_mib: u32) -> Result<()> {
    File::create(path)
        .and_then(|file| file.set_len(u64::from(memory_mib) << 20))
        .map_err(failed)
}

pub(super) fn write_memory(path: &Path, words: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.write_all_at(&bytes, 0))
        .map_err(failed)
}

/// What a snapshot's machine and a restored one must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    vcpus: u8,
    memory_mib: u32,
    mtu: Option<u16>,
    file_channel: bool,
}

impl Shape {
    pub(super) fn of(spec: &MachineSpec) -> Self {
        Self {
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            mtu: spec.network.as_ref().map(|network| network.mtu),
            file_channel: spec.file_channel,
        }
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.vcpus];
        bytes.extend(self.memory_mib.to_le_bytes());
        // No interface has an MTU of 0.
        bytes.extend(self.mtu.unwrap_or(0).to_le_bytes());
        bytes.push(self.file_channel.into());
        bytes
    }
}

pub(super) fn write_state(path: &Path, shape: Shape) -> Result<()> {
    let mut state = shape.bytes();
    let sum = check_sum(&state);
    state.extend(sum.to_le_bytes());
    fs::write(path, state).map_err(failed)
}

fn check_sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Most of memory that any guest of the fake has something in.
const USED_BYTES: u64 = 1 << 20;

/// The used start of a memory file, and the file's length.
fn read_start(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut start = Vec::new();
    file.take(USED_BYTES).read_to_end(&mut start)?;
    Ok((start, length))
}

/// The words of a snapshot that is whole and fits `spec`.
pub(super) fn read(
    files: &SnapshotFiles,
    spec: &MachineSpec,
    bug: Option<Bug>,
) -> Result<Vec<u64>> {
    let bad = |what: &str| Error::new(ErrorKind::BadSnapshot, what);
    let state = fs::read(&files.state).map_err(|error| bad("No state").because(error))?;
    let (memory, memory_bytes) =
        read_start(&files.memory).map_err(|error| bad("No memory").because(error))?;
    let words = memory.chunks_exact(8).filter_map(|chunk| {
        let chunk = chunk.first_chunk()?;
        Some(u64::from_le_bytes(*chunk))
    });
    let words = words.collect();
    if bug == Some(Bug::TakesDamage) {
        return Ok(words);
    }
    let (shape, sum) = state
        .split_last_chunk()
        .ok_or_else(|| bad("A short state"))?;
    if check_sum(shape).to_le_bytes() != *sum {
        return Err(bad("A damaged state"));
    }
    if bug == Some(Bug::TakesAnyShape) {
        return Ok(words);
    }
    if shape != Shape::of(spec).bytes() {
        return Err(bad("Another shape"));
    }
    if memory_bytes != u64::from(spec.memory_mib) << 20 {
        return Err(bad("Memory of another size"));
    }
    Ok(words)
}
