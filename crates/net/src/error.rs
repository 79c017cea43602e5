//! What can go wrong with a sandbox's network, seen from its caller.
//!
//! Packets of a guest never make an error: they are answered or dropped, and counted.

use cofferdam_base::{Fault, FaultKind};
use cofferdam_types::Blame;

/// A network failure.
pub type Error = Fault<ErrorKind>;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A field of the configuration has a value that cannot work.
    InvalidConfig,
    /// The text is no rule.
    InvalidRule,
    /// Another program listens on the port, or this sandbox already publishes it.
    PortTaken,
    /// The host does not let this user listen on the port.
    PortForbidden,
    /// No published port has that number.
    NotPublished,
    /// The stack has stopped.
    Stopped,
    /// The host's kernel refused something else.
    Io,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        match self {
            Self::InvalidConfig
            | Self::InvalidRule
            | Self::PortTaken
            | Self::PortForbidden
            | Self::NotPublished => Blame::User,
            Self::Stopped | Self::Io => Blame::Host,
        }
    }
}

/// Names a failure of a system call by what it was about.
pub(crate) fn io(what: impl Into<String>, error: impl Into<std::io::Error>) -> Error {
    Error::new(ErrorKind::Io, what).because(error.into())
}
