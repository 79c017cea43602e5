//! Inodes and blocks that are set aside on the upper, so that a disk that the workload has filled
//! can be mounted again and cleaned.
//!
//! Overlayfs makes a directory and some files in its work directory at each mount (fs/overlayfs/
//! super.c, `ovl_make_workdir`), and fails when it cannot. The spare files go when the disk is
//! full at a mount, and are made again after it, before the workload can take their place.

use std::{fs, io, path::Path};

use crate::log;

/// More than overlayfs makes at a mount.
const FILES: u32 = 16;

/// One block for each.
const FILE_BYTES: usize = 4096;

/// Mounts by `mount`; where the disk below `writes` has no room for that, with what is spare.
pub(super) fn with_room<T, E: std::fmt::Display>(
    writes: &Path,
    mount: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let spare = writes.join("spare");
    let mounted = match mount() {
        Err(error) if has_files(&spare) => {
            log::error(&format!("{error}; trying again with the spare room"));
            release(&spare);
            mount()
        }
        other => other,
    };
    if mounted.is_ok()
        && let Err(error) = fill(&spare)
    {
        log::error(&format!("Could not set room aside on the upper: {error}"));
    }
    mounted
}

fn has_files(spare: &Path) -> bool {
    fs::read_dir(spare).is_ok_and(|mut entries| entries.next().is_some())
}

/// Removes the files. Their blocks can be used once the journal has the removal.
fn release(spare: &Path) {
    for number in 0..FILES {
        // One that is not there has been removed before.
        let _ = fs::remove_file(spare.join(number.to_string()));
    }
    rustix::fs::sync();
}

/// Makes those that are missing. Mostly none is, since the host makes the disk with them: then it
/// costs one look.
fn fill(spare: &Path) -> io::Result<()> {
    if spare.join((FILES - 1).to_string()).exists() {
        return Ok(());
    }
    fs::create_dir_all(spare)?;
    for number in 0..FILES {
        let path = spare.join(number.to_string());
        if !path.exists() {
            fs::write(&path, [0; FILE_BYTES])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_spare_room_is_given_up_for_a_mount_and_set_aside_again() {
        let dir = std::env::temp_dir().join(format!("coffer-spare-{}", std::process::id()));
        let spare = dir.join("spare");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        // Nothing is spare yet: a failure is final.
        let tries = Cell::new(0);
        let count = || {
            tries.set(tries.get() + 1);
            Err::<(), _>("full")
        };
        assert!(with_room(&dir, count).is_err());
        assert_eq!(tries.get(), 1);
        assert!(with_room(&dir, || Ok::<_, String>(())).is_ok());
        assert_eq!(fs::read_dir(&spare).unwrap().count(), 16);
        // Full as long as the files are there.
        let mount = || {
            if has_files(&spare) {
                Err("full")
            } else {
                Ok(())
            }
        };
        assert!(with_room(&dir, mount).is_ok());
        assert_eq!(fs::read_dir(&spare).unwrap().count(), 16);
        fs::remove_dir_all(&dir).unwrap();
    }
}
