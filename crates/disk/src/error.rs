//! What can go wrong with a disk file.

use cofferdam_base::{Fault, FaultKind};
use cofferdam_types::Blame;

/// A disk failure.
pub type Error = Fault<ErrorKind>;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The size asked for cannot be made into a disk.
    InvalidSize,
    /// The host's disk is full.
    NoSpace,
    /// The host's file system refused something else.
    Io,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        match self {
            Self::InvalidSize => Blame::User,
            Self::NoSpace | Self::Io => Blame::Host,
        }
    }
}

/// Names an I/O failure by what it was about.
pub(crate) fn io(what: String, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::StorageFull {
        Error::new(ErrorKind::NoSpace, what)
            .because(error)
            .hint("Free some space, or move the store with `COFFER_HOME`")
    } else {
        Error::new(ErrorKind::Io, what).because(error)
    }
}
