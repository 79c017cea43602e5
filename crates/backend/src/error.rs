//! What can go wrong with a machine.

use cofferdam_base::{Fault, FaultKind};
use cofferdam_types::Blame;

/// A machine or backend failure.
pub type Error = Fault<ErrorKind>;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The backend cannot do this; the sentence says what was asked and what there is.
    Unsupported,
    /// The host cannot run this backend: a program, device or permission is missing.
    Unavailable,
    /// The spec contradicts itself or asks for more than the host has.
    InvalidSpec,
    /// The machine's program could not be started, or ended before the machine ran.
    StartFailed,
    /// The machine is gone.
    Gone,
    /// The machine is in a state in which this cannot be done.
    WrongState,
    /// A snapshot's files are damaged or do not fit.
    BadSnapshot,
    /// The machine's program broke its control protocol, or did not answer in time.
    Control,
    /// The host's file system or kernel refused something.
    Io,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        match self {
            Self::Unsupported | Self::InvalidSpec | Self::WrongState => Blame::User,
            Self::Unavailable | Self::StartFailed | Self::Io => Blame::Host,
            Self::Gone | Self::BadSnapshot => Blame::Guest,
            Self::Control => Blame::Bug,
        }
    }
}

/// The error of a call that a backend cannot do: what was asked, what there is, what helps.
#[must_use]
pub fn unsupported(asked: &str, available: &str, hint: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("{asked} is not supported; available: {available}"),
    )
    .hint(hint)
}
