//! Failures as the wire has them: a kind for the host and one sentence for people.
//!
//! Every fallible function of this crate returns [`Result`]. The system's reason is part of the
//! sentence, since a source chain cannot travel.

use std::fmt::Display;

use cofferdam_proto::{Failure, FailureKind};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A failure of `kind` with a sentence.
pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

/// Turns a system error into a failure that says what was being done.
pub(crate) trait OrFail<T> {
    /// Fails with `kind` and ``{what}: {reason}``.
    fn or_fail<W: Display>(self, kind: FailureKind, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Display> OrFail<T> for std::result::Result<T, E> {
    fn or_fail<W: Display>(self, kind: FailureKind, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|error| failure(kind, format!("{}: {error}", what())))
    }
}
