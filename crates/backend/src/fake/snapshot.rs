//! The fake's snapshot files: a sparse memory file whose first word is the counter, and a state
//! of a few words with a check sum.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    io,
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

pub(super) fn write_counter(path: &Path, counter: u64) -> Result<()> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.write_all_at(&counter.to_le_bytes(), 0))
        .map_err(failed)
}

pub(super) fn write_state(path: &Path, vcpus: u8, memory_mib: u32) -> Result<()> {
    let mut state = vec![vcpus];
    state.extend(memory_mib.to_le_bytes());
    let sum = check_sum(&state);
    state.extend(sum.to_le_bytes());
    fs::write(path, state).map_err(failed)
}

fn check_sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The counter of a snapshot that is whole and fits `spec`.
pub(super) fn read(files: &SnapshotFiles, spec: &MachineSpec, bug: Option<Bug>) -> Result<u64> {
    let bad = |what: &str| Error::new(ErrorKind::BadSnapshot, what);
    let state = fs::read(&files.state).map_err(|error| bad("No state").because(error))?;
    let memory = File::open(&files.memory).map_err(|error| bad("No memory").because(error))?;
    let mut counter = [0; 8];
    if bug != Some(Bug::TakesDamage) {
        let (shape, sum) = state
            .split_last_chunk()
            .ok_or_else(|| bad("A short state"))?;
        if check_sum(shape).to_le_bytes() != *sum {
            return Err(bad("A damaged state"));
        }
        let mut expected = vec![spec.vcpus];
        expected.extend(spec.memory_mib.to_le_bytes());
        if bug == Some(Bug::TakesAnyShape) {
            return Ok(1);
        }
        if shape != expected {
            return Err(bad("Another shape"));
        }
        let length = memory.metadata().map_err(failed)?.len();
        if length != u64::from(spec.memory_mib) << 20 {
            return Err(bad("Memory of another size"));
        }
        memory
            .read_exact_at(&mut counter, 0)
            .map_err(|error| bad("Memory").because(error))?;
    }
    Ok(u64::from_le_bytes(counter))
}
