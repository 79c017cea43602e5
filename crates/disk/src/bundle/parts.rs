//! A bundle as a sequence of sealed parts.
//!
//! Invariant: [`SealedReader::read_part`] returns a payload only after its seal was checked, and
//! never holds more than one payload, whose length was bounded before it was read.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::{
    Progress,
    format::{
        MAGIC, PART_HEAD_BYTES, PartKind, SEAL_BYTES, check_flags, check_version, damaged,
        encode_head, too_large,
    },
};
use crate::error::{Error, ErrorKind, Result, is_full};

/// What to do about damage that is no work of a program.
const TAKE_ANOTHER_COPY: &str = "Copy or export the bundle again";

/// Writes parts and seals them.
pub(super) struct SealedWriter<W> {
    output: W,
    digest: Sha256,
    /// The part that is being made, from its head on.
    part: Vec<u8>,
}

impl<W: Write> SealedWriter<W> {
    /// Starts a bundle with its head.
    pub(super) fn new(output: W) -> Result<Self> {
        let mut writer = Self {
            output,
            digest: Sha256::new(),
            part: Vec::new(),
        };
        let head = encode_head();
        writer.digest.update(&head);
        writer.output.write_all(&head).map_err(output_failed)?;
        Ok(writer)
    }

    /// Writes a part whose payload `fill` appends. `fill` must stay within
    /// [`PartKind::max_payload_bytes`].
    pub(super) fn write_part(
        &mut self,
        kind: PartKind,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.part.clear();
        self.part.extend_from_slice(&kind.tag());
        self.part.extend_from_slice(&[0; 4]);
        fill(&mut self.part)?;
        let length = u32::try_from(self.part.len() - PART_HEAD_BYTES).map_err(|error| {
            too_large(format!("A `{kind}` part does not fit into a bundle")).because(error)
        })?;
        self.part[4..PART_HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
        self.digest.update(&self.part);
        let seal = self.digest.clone().finalize();
        self.digest.update(seal);
        self.part.extend_from_slice(&seal);
        self.output.write_all(&self.part).map_err(output_failed)
    }

    /// Flushes and returns the output.
    pub(super) fn into_output(mut self) -> Result<W> {
        self.output.flush().map_err(output_failed)?;
        Ok(self.output)
    }
}

fn output_failed(error: io::Error) -> Error {
    let what = "Could not write the bundle";
    if is_full(&error) {
        Error::new(ErrorKind::NoSpace, what)
            .because(error)
            .hint("Free some space, or write the bundle elsewhere")
    } else {
        Error::new(ErrorKind::Io, what).because(error)
    }
}

/// Reads parts and checks their seals.
pub(super) struct SealedReader<R> {
    input: R,
    digest: Sha256,
    payload: Vec<u8>,
    /// Bytes read so far.
    position: u64,
    pub(super) progress: Option<Progress>,
}

impl<R: Read> SealedReader<R> {
    /// Starts a bundle: checks its head.
    pub(super) fn open(input: R) -> Result<Self> {
        let mut reader = Self {
            input,
            digest: Sha256::new(),
            payload: Vec::new(),
            position: 0,
            progress: None,
        };
        if reader.magic()? != MAGIC {
            return Err(Error::new(ErrorKind::NotABundle, "This is no bundle")
                .hint("Give a file that was made by `coffer snapshot export`"));
        }
        reader.digest.update(MAGIC);
        check_version(u32::from_le_bytes(reader.read_array()?))?;
        check_flags(u32::from_le_bytes(reader.read_array()?))?;
        Ok(reader)
    }

    /// The first eight bytes; fewer, if there are no more.
    fn magic(&mut self) -> Result<Vec<u8>> {
        let mut magic = Vec::with_capacity(MAGIC.len());
        (&mut self.input)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(input_failed)?;
        self.position = magic.len() as u64;
        Ok(magic)
    }

    /// Reads the next part and checks its seal; its payload is then [`Self::payload`].
    pub(super) fn read_part(&mut self) -> Result<PartKind> {
        let start = self.position;
        let tag = self.read_array()?;
        let length = u32::from_le_bytes(self.read_array()?);
        let kind = PartKind::from_tag(tag).ok_or_else(|| {
            damaged(format!(
                "At byte {start} of the bundle is no part, but `{}`",
                tag.escape_ascii()
            ))
        })?;
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > kind.max_payload_bytes() {
            return Err(damaged(format!(
                "The `{kind}` part at byte {start} of the bundle claims {length} bytes"
            )));
        }
        self.payload.resize(bytes, 0);
        fill(&mut self.input, &mut self.payload, &mut self.position)?;
        self.digest.update(&self.payload);
        self.check_seal(kind, start)?;
        if let Some(progress) = &mut self.progress {
            progress(self.position);
        }
        Ok(kind)
    }

    fn check_seal(&mut self, kind: PartKind, start: u64) -> Result<()> {
        let expected: [u8; SEAL_BYTES] = self.digest.clone().finalize().into();
        let seal: [u8; SEAL_BYTES] = self.read_array()?;
        if seal != expected {
            return Err(damaged(format!(
                "The `{kind}` part at byte {start} of the bundle does not match its seal"
            ))
            .hint(TAKE_ANOTHER_COPY));
        }
        Ok(())
    }

    /// The payload of the last part.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Gives the payload of the last part away.
    pub(super) fn take_payload(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload)
    }

    /// Refuses what follows the last part.
    pub(super) fn expect_end(&mut self) -> Result<()> {
        let mut byte = Vec::new();
        (&mut self.input)
            .take(1)
            .read_to_end(&mut byte)
            .map_err(input_failed)?;
        if byte.is_empty() {
            return Ok(());
        }
        Err(damaged(format!(
            "The bundle ends at byte {}, but there is more",
            self.position
        )))
    }

    /// Reads and hashes `N` bytes.
    fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        fill(&mut self.input, &mut bytes, &mut self.position)?;
        self.digest.update(bytes);
        Ok(bytes)
    }
}

fn fill(input: &mut impl Read, bytes: &mut [u8], position: &mut u64) -> Result<()> {
    input.read_exact(bytes).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            damaged(format!("The bundle is cut short after byte {position}"))
                .because(error)
                .hint(TAKE_ANOTHER_COPY)
        } else {
            input_failed(error)
        }
    })?;
    *position += bytes.len() as u64;
    Ok(())
}

fn input_failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "Could not read the bundle").because(error)
}
