//! What a check found.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// Holds, or does not.
pub type Outcome = std::result::Result<(), Violation>;

/// How the contract is broken.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation(String);

impl Violation {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A call that had to succeed failed.
impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Self(format!("{error:?}"))
    }
}

/// The guest did not answer, or the file system failed.
impl From<std::io::Error> for Violation {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Something must be so.
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Violation(what()))
    }
}

/// A call must fail with one of `kinds`.
pub(super) fn refused<T>(what: &str, result: Result<T>, kinds: &[ErrorKind]) -> Outcome {
    match result {
        Ok(_) => Err(Violation(format!("{what} succeeded"))),
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        Err(error) => Err(Violation(format!(
            "{what} failed with {error:?}, not as one of {kinds:?}"
        ))),
    }
}
