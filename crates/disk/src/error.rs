//! What can go wrong with a disk file or a bundle.

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
    /// A file cannot have that name in a bundle.
    InvalidName,
    /// The input is no bundle at all.
    NotABundle,
    /// The bundle was written by a newer program.
    Newer {
        /// The bundle's format version.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// The bundle is not as it was written, or was written to deceive.
    Damaged,
    /// A bundle has, or would have, more than a limit allows.
    TooLarge,
    /// The host's disk is full.
    NoSpace,
    /// The host's file system refused something else.
    Io,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        match self {
            Self::InvalidSize
            | Self::InvalidName
            | Self::NotABundle
            | Self::Newer { .. }
            | Self::Damaged
            | Self::TooLarge => Blame::User,
            Self::NoSpace | Self::Io => Blame::Host,
        }
    }
}

/// Names an I/O failure by what it was about.
pub(crate) fn io(what: String, error: std::io::Error) -> Error {
    if is_full(&error) {
        Error::new(ErrorKind::NoSpace, what)
            .because(error)
            .hint("Free some space, or move the store with `COFFER_HOME`")
    } else {
        Error::new(ErrorKind::Io, what).because(error)
    }
}

/// Whether it was for want of space: on the disk, or in the user's share of it.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind as IoKind};

    use super::*;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_no_space() {
        for (kind, expected) in [
            (IoKind::StorageFull, ErrorKind::NoSpace),
            (IoKind::QuotaExceeded, ErrorKind::NoSpace),
            (IoKind::PermissionDenied, ErrorKind::Io),
        ] {
            let error = io("Could not write `x`".to_owned(), IoError::from(kind));
            assert_eq!(error.kind(), expected);
            assert_eq!(error.blame(), Blame::Host);
        }
    }
}
