//! What a stream has beside memory and devices: the machine's configuration, and commands for the
//! side that loads it.
//!
//! ```text
//! 0x07 configuration: be32 length, machine name; then subsections 0x05
//! 0x08 command: be16 command, be16 length, data
//! ```
//! Source: QEMU 10.0 `migration/savevm.c`, `qemu_savevm_command_send`, `vmstate_configuration`.

use std::io::{self, Read, Write};

use super::{CONFIGURATION, SUBSECTION, malformed, tape::Tape, unknown};

/// QEMU 10 sends one (`MIG_CMD_SWITCHOVER_START`); this many are no stream of a capture.
const MAX_COMMANDS: usize = 64;

/// A machine has a handful of migration capabilities.
const MAX_CAPABILITIES: u32 = 64;

/// Commands after which memory comes in another way than in its sections, or the stream has no end:
/// those of postcopy (3 to 6, 9, 10), a stream inside the stream (7), and COLO (8).
const OTHER_WAYS: std::ops::RangeInclusive<u16> = 3..=10;

/// Copies the configuration section; returns the kind of the next one.
pub(super) fn copy_configuration(tape: &mut Tape<impl Read, impl Write>) -> io::Result<u8> {
    let kind = tape.read_u8()?;
    if kind != CONFIGURATION {
        return Ok(kind);
    }
    tape.output.write_all(&[kind])?;
    let length = tape.copy_u32()?;
    if length > 256 {
        return Err(malformed("the machine's name is too long"));
    }
    tape.copy(usize::try_from(length).map_err(io::Error::other)?)?;
    loop {
        let kind = tape.read_u8()?;
        if kind != SUBSECTION {
            return Ok(kind);
        }
        tape.output.write_all(&[kind])?;
        copy_subsection(tape)?;
    }
}

/// A subsection does not tell its length, so one that is not known cannot be copied.
fn copy_subsection(tape: &mut Tape<impl Read, impl Write>) -> io::Result<()> {
    let name = tape.copy_name()?;
    // Version.
    tape.copy_u32()?;
    match name.as_slice() {
        b"configuration/capabilities" => {
            let count = tape.copy_u32()?;
            if count > MAX_CAPABILITIES {
                return Err(malformed("the configuration has too many capabilities"));
            }
            for _ in 0..count {
                tape.copy_name()?;
            }
        }
        b"configuration/target-page-bits" => drop(tape.copy_u32()?),
        b"configuration/uuid" => tape.copy(16)?,
        _ => return Err(malformed("the configuration has an unknown part")),
    }
    Ok(())
}

/// The commands of one stream.
#[derive(Default)]
pub(super) struct Commands(usize);

impl Commands {
    /// Copies a command whose section byte was read and not written. A command tells its length,
    /// so one that is not known is copied too; the QEMU that wrote it knows it.
    pub(super) fn copy(
        &mut self,
        section: u8,
        tape: &mut Tape<impl Read, impl Write>,
    ) -> io::Result<()> {
        self.0 += 1;
        if self.0 > MAX_COMMANDS {
            return Err(malformed("there are too many commands"));
        }
        tape.output.write_all(&[section])?;
        let command = tape.copy_u16()?;
        if OTHER_WAYS.contains(&command) {
            return Err(unknown("command", u64::from(command)));
        }
        let length = tape.copy_u16()?;
        tape.copy(usize::from(length))
    }
}
