//! What can go wrong between an image reference and a root file system.

use cofferdam_base::{Fault, FaultKind};
use cofferdam_types::Blame;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such image, tag, blob or file.
    NotFound,
    /// The text is no image reference.
    InvalidReference,
    /// The registry wants other credentials than it was given.
    Unauthorized,
    /// The bytes are not those that the digest names.
    DigestMismatch,
    /// A limit against bombs was reached.
    TooLarge,
    /// The bytes break their format.
    Corrupt,
    /// The format is valid but uses something that is not supported.
    Unsupported,
    /// The image is for another platform.
    PlatformMismatch,
    /// The registry failed or broke the protocol.
    Registry,
    /// The registry has a certificate that this host does not trust.
    Untrusted,
    /// A remote party did not answer in time.
    Timeout,
    /// The disk is full.
    NoSpace,
    /// Something else still uses the image.
    InUse,
    /// The host does not permit the access.
    Permission,
    /// The host's file system failed in another way.
    Io,
    /// The caller gave up.
    Cancelled,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        match self {
            Self::NotFound
            | Self::InvalidReference
            | Self::Unauthorized
            | Self::Unsupported
            | Self::PlatformMismatch
            | Self::InUse
            | Self::Cancelled => Blame::User,
            Self::DigestMismatch
            | Self::TooLarge
            | Self::Corrupt
            | Self::Registry
            | Self::Untrusted
            | Self::Timeout => Blame::Remote,
            Self::NoSpace | Self::Permission | Self::Io => Blame::Host,
        }
    }
}

/// A failure of this crate.
pub type Error = Fault<ErrorKind>;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the host's file system during `what`, by its cause.
pub(crate) fn host_error(what: impl Into<String>, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Cause;
    let (kind, hint) = match error.kind() {
        Cause::StorageFull | Cause::QuotaExceeded => (
            ErrorKind::NoSpace,
            Some("Free some space, or remove images with `coffer rmi`"),
        ),
        Cause::PermissionDenied | Cause::ReadOnlyFilesystem => (
            ErrorKind::Permission,
            Some("Check who owns the directory, or choose another with `COFFER_HOME`"),
        ),
        Cause::NotFound => (ErrorKind::NotFound, None),
        _ => (ErrorKind::Io, None),
    };
    let fault = Error::new(kind, what).because(error);
    match hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// [`host_error`] about one path.
pub(crate) fn path_error<'a>(
    verb: &'a str,
    path: &'a std::path::Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |error| host_error(format!("Could not {verb} `{}`", path.display()), error)
}
