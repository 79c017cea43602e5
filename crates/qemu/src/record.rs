//! `machine.json` in a machine's directory: how other processes find it.
//!
//! A process id alone may have been given to another process since; with its start time it names
//! one process of this boot. Source: proc(5), `/proc/PID/stat` fields.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cofferdam_backend::{Error, ErrorKind, Result};
use cofferdam_base::fs as files;
use cofferdam_types::SandboxId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "machine.json";
/// A record is a few hundred bytes and two paths.
const SIZE_LIMIT: u64 = 64 << 10;

/// What is recorded of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) id: SandboxId,
    pub(crate) backend: String,
    pub(crate) pid: u32,
    /// Clock ticks from boot to the process's start.
    pub(crate) start_ticks: u64,
    pub(crate) console_log: PathBuf,
    pub(crate) vmm_log: PathBuf,
}

impl Record {
    pub(crate) fn publish(&self, run_dir: &Path) -> Result<()> {
        files::publish_json(&run_dir.join(FILE_NAME), self, false).map_err(|error| {
            Error::new(
                ErrorKind::Io,
                format!(
                    "The machine's record in `{}` cannot be written",
                    run_dir.display()
                ),
            )
            .because(error)
        })
    }

    pub(crate) fn read(run_dir: &Path) -> io::Result<Self> {
        files::read_json(&run_dir.join(FILE_NAME), SIZE_LIMIT)
    }

    /// Removes the record in `run_dir`, if there is one.
    pub(crate) fn remove(run_dir: &Path) -> io::Result<()> {
        files::remove_file_if_present(&run_dir.join(FILE_NAME))
    }

    /// Moves the record from one directory to another.
    pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from.join(FILE_NAME), to.join(FILE_NAME))
    }

    /// A handle to the recorded process, if it still lives.
    pub(crate) fn open_process(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at while the handle is held: if the id was given away before the handle was
        // made, the start time differs; afterwards it cannot be given away.
        let stat = ProcessStat::read(self.pid).ok()?;
        (stat.start_ticks == self.start_ticks && !stat.ended).then_some(pidfd)
    }
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// It is a zombie or being torn down.
    pub(crate) ended: bool,
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
    pub(crate) start_ticks: u64,
    pub(crate) resident_pages: u64,
}

impl ProcessStat {
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The second field is the program's name in parentheses and may hold anything, so fields
    /// are counted from the last parenthesis; the first after it is field 3.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            ended: matches!(*fields.first()?, "Z" | "X"),
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            start_ticks: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32, start_ticks: u64) -> Record {
        Record {
            id: SandboxId::from_random([7; 32]),
            backend: "qemu-tcg".to_owned(),
            pid,
            start_ticks,
            console_log: "/c".into(),
            vmm_log: "/v".into(),
        }
    }

    #[test]
    fn a_hostile_program_name_does_not_shift_the_fields() {
        let text = "12 (a) S 1 (b) R 1 2 3 4 5 6 7 8 9 10 140 150 16 17 18 19 20 21 220 23 240";
        let stat = ProcessStat::parse(text).unwrap();
        assert_eq!((stat.user_ticks, stat.system_ticks), (140, 150));
        assert_eq!((stat.start_ticks, stat.resident_pages), (220, 240));
        assert!(ProcessStat::parse("12 (short) S 1").is_none());
    }

    #[test]
    fn a_recycled_process_id_is_not_the_recorded_process() {
        let pid = std::process::id();
        let start = ProcessStat::read(pid).unwrap().start_ticks;
        assert!(record(pid, start).open_process().is_some());
        assert!(record(pid, start + 1).open_process().is_none());
    }

    #[test]
    fn a_record_survives_its_file_and_a_damaged_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        record(5, 6).publish(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record(5, 6));
        fs::write(dir.path().join(FILE_NAME), b"{\"id\":").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
