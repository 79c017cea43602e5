//! A cgroup beside the workload's, for a command that runs while that one is frozen.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use cofferdam_proto::FailureKind;

use super::{limits, wait_until};
use crate::failure::{OrFail, Result};

const HOOK_GROUP: &str = "/sys/fs/cgroup/aside";

/// The cgroup.
#[derive(Debug)]
pub(crate) struct HookGroup {
    directory: OwnedFd,
}

impl HookGroup {
    /// Makes the cgroup, or takes the one that is there: an earlier one may not have been empty
    /// in time.
    pub(crate) fn make() -> Result<Self> {
        let failed = || "Could not make a cgroup";
        let kind = FailureKind::Internal;
        match fs::create_dir(HOOK_GROUP) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).or_fail(kind, failed);
            }
            _ => {}
        }
        limits::limit_aside(HOOK_GROUP);
        let directory = File::open(HOOK_GROUP).or_fail(kind, failed)?;
        Ok(Self {
            directory: directory.into(),
        })
    }

    /// Kills all that runs in it and removes it once it is empty.
    pub(crate) fn kill(&self, timeout: Duration) -> Result<()> {
        let failed = || "Could not end a command";
        let kind = FailureKind::Internal;
        fs::write(format!("{HOOK_GROUP}/cgroup.kill"), "1").or_fail(kind, failed)?;
        let deadline = Instant::now() + timeout;
        if !wait_until(HOOK_GROUP, "populated 0", deadline).or_fail(kind, failed)? {
            return Err("Its processes do not end").or_fail(kind, failed);
        }
        fs::remove_dir(HOOK_GROUP).or_fail(kind, failed)
    }
}

impl AsFd for HookGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
