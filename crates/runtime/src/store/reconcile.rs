//! Reality against the store: what a killed process left is put right by the next one.
//!
//! A supervisor holds its sandbox's lock for life, and the kernel frees it when the process dies
//! in whatever way. So a live state with a free lock is a lie: its machine is ended (it died with
//! its supervisor, unless the kernel was slow), the state becomes `Failed`, or the sandbox goes
//! when it was asked to.

use std::{
    collections::BTreeSet,
    fs as std_fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use cofferdam_base::fs;
use cofferdam_types::{SandboxId, SandboxStatus};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{Entry, EventKind, Failure, MAX_RECORD_BYTES, Store, read_state, staging_dirs};
use crate::{
    base::error::{ErrorKind, Result, io},
    store::{layout::Layout, program, resume::Resume},
};

/// How long a killed process may take to be gone: its machine has memory and files to let go of.
const DEATH_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Corrects an entry that claims to be live; `None` if that made it disappear.
pub(super) fn check(store: &Store, entry: Entry) -> Result<Option<Entry>> {
    let id = entry.record.id;
    let Some(lock) = store.try_lock(id)? else {
        return Ok(Some(entry));
    };
    // Between the read and the lock the supervisor may have ended in good order.
    let paths = store.layout().sandbox(id);
    let mut state = match read_state(&paths) {
        Ok(state) => state,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(super::damaged(id, error)),
    };
    if !state.status.is_live() {
        return Ok(Some(Entry { state, ..entry }));
    }
    store.layout().backends().reap(&paths.run);
    let lost = Resume::read(&paths)?.filter(|resume| !resume.is_whole());
    if entry.record.spec.auto_remove || lost.is_some_and(|resume| resume.is_of_capture()) {
        store.remove(id)?;
        return Ok(None);
    }
    state.status = SandboxStatus::Failed;
    state.supervisor_pid = None;
    state.machine_pid = None;
    state.ports = Vec::new();
    state.lease = None;
    state.finished_ns = Some(cofferdam_base::time::unix_time_ns());
    state.failure = Some(Failure {
        kind: ErrorKind::SupervisorLost.name(),
        message: "Its supervisor was killed or the host went down".to_owned(),
        hint: Some(format!(
            "Start it again with `coffer start {}`",
            entry.record.name
        )),
    });
    // Where it cannot be put on record, as on a full disk, the next look finds the same.
    let _ = store.set_state(id, &state);
    store.note(&entry.record, EventKind::died(&state));
    store.layout().remove_sockets(&paths);
    drop(lock);
    Ok(Some(Entry { state, ..entry }))
}

/// A fork that has not come up, and whose maker was killed and took the capture along, is debris:
/// without the memory its disk is of no moment that anybody asked for. A restored sandbox whose
/// snapshot is gone starts from its disk.
pub(super) fn check_resume(store: &Store, entry: Entry) -> Result<Option<Entry>> {
    let id = entry.record.id;
    let paths = store.layout().sandbox(id);
    let lost = || Ok(Resume::read(&paths)?.filter(|resume| !resume.is_whole()));
    if lost()?.is_none() {
        return Ok(Some(entry));
    }
    let Some(_lock) = store.try_lock(id)? else {
        return Ok(Some(entry));
    };
    // It may have come up between the look and the lock.
    if let Some(resume) = lost()? {
        if entry.state.status == SandboxStatus::Created || resume.is_of_capture() {
            store.remove(id)?;
            return Ok(None);
        }
        Resume::clear(&paths)?;
    }
    Ok(Some(entry))
}

/// The id of each sandbox that has a directory, in no order.
pub(super) fn ids(layout: &Layout) -> Result<Vec<SandboxId>> {
    let dir = layout.sandboxes();
    let entries = std_fs::read_dir(&dir)
        .map_err(|error| io(format!("Could not read `{}`", dir.display()), error))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// Each sandbox whose record can be read, with its name.
pub(super) fn named(layout: &Layout) -> Result<Vec<(String, SandboxId)>> {
    let named = |id| Some((name_of(layout, id)?, id));
    Ok(ids(layout)?.into_iter().filter_map(named).collect())
}

/// The name of a sandbox; `None` if its record cannot be read.
pub(super) fn name_of(layout: &Layout, id: SandboxId) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let record = layout.sandbox(id).record();
    let named: Named = fs::read_json(&record, MAX_RECORD_BYTES).ok()?;
    Some(named.name)
}

/// Whether anything is, or is about to be, at a sandbox's place. A claim of a name whose process
/// was killed before it made the sandbox has nothing there.
pub(super) fn is_there(store: &Store, id: SandboxId) -> bool {
    is_made(store, id, is_alive)
}

/// The same, but for what this process is about to put there.
pub(super) fn is_there_beside_us(store: &Store, id: SandboxId) -> bool {
    is_made(store, id, |pid| pid != std::process::id() && is_alive(pid))
}

fn is_made(store: &Store, id: SandboxId, counts: impl Fn(u32) -> bool) -> bool {
    let of_live_process = |name: &str| {
        name.ends_with(&id.to_string()) && fs::staging_owner(name).is_some_and(&counts)
    };
    let entries = std_fs::read_dir(store.layout().sandboxes()).into_iter();
    // In this order, which is that of the rename from the one to the other.
    entries
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_str().is_some_and(of_live_process))
        || store.layout().sandbox(id).dir.exists()
}

/// Removes staging directories of dead processes, and sandboxes that look live but are not.
/// Cheap: reads the directories of the live ones and of the store, and no file of the others.
pub(super) fn sweep(store: &Store) -> Result<()> {
    for dir in staging_dirs(store.layout()) {
        let Ok(entries) = std_fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let owner = entry.file_name().to_str().and_then(fs::staging_owner);
            if owner.is_some_and(|pid| !is_alive(pid)) {
                // Another process may be sweeping too.
                let _ = fs::remove_dir_if_present(&entry.path());
            }
        }
    }
    let entries = std_fs::read_dir(store.layout().run()).into_iter();
    let live: BTreeSet<_> = entries
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    if live.is_empty() {
        return Ok(());
    }
    for id in store.ids()? {
        if live.contains(&id.short()) {
            // A damaged sandbox is reported when somebody asks for it, not here.
            let _ = store.load(id);
        }
    }
    Ok(())
}

/// Ends the supervisor of a sandbox whose lock is held: it is the process that its state names.
pub(crate) fn end_supervisor(store: &Store, entry: &Entry) {
    let Some(pid) = entry.state.supervisor_pid else {
        return;
    };
    let (home, id) = (
        store.layout().home().as_os_str().as_bytes(),
        entry.record.id.to_string(),
    );
    end_role(pid, |words| match words {
        // By its id alone, which is a random number: the store may have been moved since.
        [role, _, which, ..] if *role == program::SUPERVISE.as_bytes() => *which == id.as_bytes(),
        // Claimed for the sandbox, it has another id on its command line.
        [role, of, ..] => *role == program::STAND_BY.as_bytes() && *of == home,
        _ => false,
    });
}

/// Kills the process of a number if its arguments are those of the role that is meant, and waits
/// for its end.
pub(crate) fn end_role(pid: u32, is_it: impl Fn(&[&[u8]]) -> bool) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // This very process is looked at and killed, even if its number has passed to another one.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let line = std_fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).skip(1).collect();
    if is_it(&words) {
        end(&process);
    }
}

/// Kills a process and waits for its end.
fn end(process: &OwnedFd) {
    // It may die by itself at this moment.
    let _ = pidfd_send_signal(process, Signal::KILL);
    // While one of its threads still dies, its files are locked and whoever comes next would find
    // them so. A stuck one is left to the next who looks.
    let mut ends = [PollFd::new(process, PollFlags::IN)];
    let _ = poll(&mut ends, Some(&DEATH_TIMEOUT));
}

/// Whether a process still runs; one that has ended and was not waited for does not.
/// Source: proc_pid_stat(5), field 3.
fn is_alive(pid: u32) -> bool {
    let stat = std_fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}
