//! Capture of a machine that lives on: copied ahead, taken in a pause, settled afterwards.
//!
//! ```text
//! running   begin_capture   what the guest may still change is copied ahead
//! running   Capture::fits   whether a pause has room for the rest; if not, the guest is slowed
//! running   Capture::catch_up   down, and what it has changed is copied again
//! paused    Capture::take   the moment: the rest of memory, devices, the disks' changes pinned
//! running   Capture::settle what was pinned reaches its files
//! ```
//! The runtime pauses and resumes; a backend does neither by itself. What is made is restored by
//! [`crate::Backend::restore`] as any snapshot is.

use std::{fmt, path::PathBuf};

use crate::{BoxFuture, Result, SnapshotFiles};

/// What a capture of a machine that lives on makes; none of the files exists yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturePlan {
    /// Memory and devices; none for disks alone.
    pub memory: Option<SnapshotFiles>,
    /// One file for each writable disk of the machine's spec, in order.
    pub disks: Vec<PathBuf>,
}

/// A capture that was begun. A machine has one at most.
///
/// Dropped before [`Capture::settle`] is over, or failed, it leaves none of its files, and the
/// machine as it was: it runs if it ran, and what the capture set up in it is taken down.
pub trait Capture: Send + fmt::Debug {
    /// Whether a pause of some tens of milliseconds has room for what the guest has changed since
    /// it was copied ahead. What cannot be told fits.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Gone`] when the machine has ended.
    fn fits(&mut self) -> BoxFuture<'_, Result<bool>>;

    /// Copies ahead again what has changed. It helps only if the guest changes less than before:
    /// who calls it has slowed the guest down.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] when the moment was taken. After any other error the
    /// capture has failed.
    fn catch_up(&mut self) -> BoxFuture<'_, Result<()>>;

    /// The moment that is captured. The machine may run again as soon as this is over.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] unless the machine is paused, or when this was done
    /// already; [`crate::ErrorKind::Gone`] when it has ended. After any other error the capture
    /// has failed.
    fn take(&mut self) -> BoxFuture<'_, Result<()>>;

    /// Waits until every file is whole. The machine may run, be paused and be captured in no
    /// other way meanwhile.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] when nothing was taken.
    fn settle(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}
