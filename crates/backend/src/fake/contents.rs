//! What a capture keeps of one of the fake's machines.

use std::{fs, io, path::PathBuf};

use super::guest::Memory;
use crate::{Error, ErrorKind, Result};

/// Memory and disks at one time.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub(super) words: Vec<u64>,
    pub(super) disks: Vec<Vec<u8>>,
}

impl Contents {
    pub(super) fn of(memory: &Memory, disks: &[PathBuf]) -> Result<Self> {
        let disks = disks.iter().map(fs::read);
        Ok(Self {
            words: memory.words(),
            disks: disks.collect::<io::Result<_>>().map_err(disk_failed)?,
        })
    }
}

pub(super) fn disk_failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "The fake's disk cannot be copied").because(error)
}
