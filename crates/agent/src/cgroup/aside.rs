//! A cgroup beside the workload's, for a command that runs while that one is frozen.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use cofferdam_proto::FailureKind;

use super::{limits, wait_until};
use crate::failure::{OrFail, Result};

const ASIDE: &str = "/sys/fs/cgroup/aside";

/// The cgroup.
#[derive(Debug)]
pub(crate) struct Aside {
    directory: OwnedFd,
}

impl Aside {
    /// Makes the cgroup, or takes the one that is there: an earlier one may not have been empty
    /// in time.
    pub(crate) fn make() -> Result<Self> {
        let failed = || "Could not make a cgroup";
        let kind = FailureKind::Internal;
        match fs::create_dir(ASIDE) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).or_fail(kind, failed);
            }
            _ => {}
        }
        limits::limit_aside(ASIDE);
        let directory = File::open(ASIDE).or_fail(kind, failed)?;
        Ok(Self {
            directory: directory.into(),
        })
    }

    /// Kills all that runs in it and removes it once it is empty.
    pub(crate) fn kill(&self, timeout: Duration) -> Result<()> {
        let failed = || "Could not end a command";
        let kind = FailureKind::Internal;
        fs::write(format!("{ASIDE}/cgroup.kill"), "1").or_fail(kind, failed)?;
        let deadline = Instant::now() + timeout;
        if !wait_until(ASIDE, "populated 0", deadline).or_fail(kind, failed)? {
            return Err("Its processes do not end").or_fail(kind, failed);
        }
        fs::remove_dir(ASIDE).or_fail(kind, failed)
    }
}

impl AsFd for Aside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
