//! What can go wrong with the proxy of the secrets, seen from its caller.

use cofferdam_base::{Fault, FaultKind};
use cofferdam_types::Blame;

/// A failure of the proxy.
pub type Error = Fault<ErrorKind>;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A key or certificate could not be made.
    Certificate,
    /// The host gives no thread, descriptor or random number.
    Io,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        Blame::Host
    }
}
