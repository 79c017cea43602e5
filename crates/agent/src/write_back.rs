//! Writing dirty pages early, so that little is left to be written while the processes are frozen.
//!
//! The kernel does it: with small limits it begins to write at once, and a process that dirties
//! pages faster than the disks take them waits. Nothing here waits for a disk.
//!
//! Source: Linux `Documentation/admin-guide/sysctl/vm.rst`, `proc_meminfo(5)`.

use std::fs;

use cofferdam_proto::FailureKind;

use crate::failure::{OrFail, Result};

const RATIO: &str = "/proc/sys/vm/dirty_ratio";
const BACKGROUND_RATIO: &str = "/proc/sys/vm/dirty_background_ratio";
const LIMIT: &str = "/proc/sys/vm/dirty_bytes";
const BACKGROUND_LIMIT: &str = "/proc/sys/vm/dirty_background_bytes";
/// Setting another value than the one before also wakes the kernel's writers at once.
const INTERVAL: &str = "/proc/sys/vm/dirty_writeback_centisecs";

/// Dirty bytes from which a process that writes has to wait.
const EAGER_BYTES: u32 = 8 << 20;

/// Dirty bytes from which the kernel writes in the background.
const EAGER_BACKGROUND_BYTES: u32 = 1 << 20;

/// How often the kernel looks for what is to be written, in hundredths of a second.
const EAGER_INTERVAL: u32 = 50;

/// Whether dirty pages are written early, and what is set again afterwards.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    saved: Option<SavedSettings>,
}

/// The settings of a machine that nobody waits for; the limits are in percent of its memory.
#[derive(Debug)]
struct SavedSettings {
    ratio: String,
    background_ratio: String,
    interval: String,
}

impl WriteBack {
    /// Has dirty pages written early. Beginning again changes nothing.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.saved.is_none() {
            self.saved = Some(SavedSettings {
                ratio: read(RATIO)?,
                background_ratio: read(BACKGROUND_RATIO)?,
                interval: read(INTERVAL)?,
            });
            // The limit in bytes replaces that in percent; the background's has to stay below.
            write(BACKGROUND_LIMIT, &EAGER_BACKGROUND_BYTES.to_string())?;
            write(LIMIT, &EAGER_BYTES.to_string())?;
            write(INTERVAL, &EAGER_INTERVAL.to_string())?;
        }
        Ok(())
    }

    /// Sets the usual limits again. Ending what was not begun changes nothing.
    pub(crate) fn end(&mut self) -> Result<()> {
        if let Some(saved) = &self.saved {
            write(RATIO, saved.ratio.trim_end())?;
            write(BACKGROUND_RATIO, saved.background_ratio.trim_end())?;
            write(INTERVAL, saved.interval.trim_end())?;
            self.saved = None;
        }
        Ok(())
    }
}

/// Bytes that processes have written and the disks have not.
pub(crate) fn dirty_bytes() -> Result<u64> {
    Ok(parse(&read("/proc/meminfo")?))
}

fn parse(meminfo: &str) -> u64 {
    let of = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let counts = matches!(name, "Dirty" | "Writeback");
        let kib = value.trim().strip_suffix("kB")?.trim();
        counts.then(|| kib.parse::<u64>().ok()).flatten()
    };
    meminfo.lines().filter_map(of).sum::<u64>() * 1024
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).or_fail(FailureKind::Internal, || format!("Could not read `{path}`"))
}

fn write(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).or_fail(FailureKind::Internal, || {
        format!("Could not set `{path}` to `{value}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dirty_and_what_is_being_written_counts() {
        let text = "MemFree: 9 kB\nDirty:    120 kB\nWriteback: 8 kB\nWritebackTmp: 4 kB\n";
        assert_eq!(parse(text), 128 << 10);
        assert_eq!(parse("Dirty: many\n"), 0);
    }
}
