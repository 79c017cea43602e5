//! The processes of a store: who they are, and who of them is killed.

use std::{collections::BTreeSet, fs, path::Path};

use cofferdam_testkit::sandboxes::is_alive;
use rustix::process::{Pid, Signal, kill_process};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    /// The command.
    Client,
    /// The supervisors that it has started.
    Supervisors,
    /// The supervisor of the sandbox that was there.
    Parent,
    /// The command and all that it has started.
    Everything,
}

/// The processes whose arguments or environment name the store at `home`.
pub(crate) fn of_store(home: &Path) -> BTreeSet<i32> {
    let home = home.to_str().unwrap().as_bytes();
    let names_it = |pid: i32, file: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.windows(home.len()).any(|part| part == home)
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && is_alive(*pid))
        .filter(|pid| names_it(*pid, "cmdline") || names_it(*pid, "environ"))
        .collect()
}

/// Whether it is a supervisor.
pub(crate) fn supervises(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"__supervise")
}

/// Kills one, which may have ended by itself.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
