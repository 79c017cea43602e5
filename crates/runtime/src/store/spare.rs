//! A state file that can be replaced on a full disk.
//!
//! A sandbox whose writes fill the host's disk must not lose how it ended. So while it lives it
//! has a spare file whose block is its own already: on a full disk the new state goes there, and
//! the two files change places.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use cofferdam_base::fs;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::SandboxState;

/// Size of the spare: one block of most file systems. A state is a tenth of it.
const SPARE_BYTES: usize = 4096;

/// Makes the spare, if there is room.
pub(super) fn reserve(spare: &Path) {
    let make = || -> io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(spare)?;
        // Zeros that are written have a block; a hole has none.
        file.write_all(&[0; SPARE_BYTES])
    };
    if make().is_err() {
        // An empty one is of no use.
        let _ = fs::remove_file_if_present(spare);
    }
}

/// Publishes a state at `path`, by way of `spare` if the disk is full.
///
/// # Errors
/// The file system's; then the old state is still there.
pub(super) fn publish(path: &Path, spare: &Path, state: &SandboxState) -> io::Result<()> {
    match fs::publish_json(path, state, false) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            // The first error is the one to report.
            publish_in_place(path, spare, state).map_err(|_| error)
        }
        other => other,
    }
}

fn publish_in_place(path: &Path, spare: &Path, state: &SandboxState) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(state)?;
    text.push(b'\n');
    if text.len() > SPARE_BYTES {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut file = File::options().write(true).open(spare)?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)?;
    renameat_with(CWD, path, CWD, spare, RenameFlags::EXCHANGE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spare_and_the_state_change_places_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, spare) = (dir.path().join("state.json"), dir.path().join("spare"));
        let mut state = SandboxState::created();
        publish(&path, &spare, &state).unwrap();
        assert!(publish_in_place(&path, &spare, &state).is_err());
        reserve(&spare);
        for starts in 1..4 {
            state.starts = starts;
            publish_in_place(&path, &spare, &state).unwrap();
            let read: SandboxState = fs::read_json(&path, 1 << 20).unwrap();
            assert_eq!(read, state);
        }
        reserve(&spare);
        assert!(std::fs::metadata(&spare).unwrap().len() >= SPARE_BYTES as u64);
    }
}
