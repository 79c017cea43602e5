//! What can go wrong with a sandbox.

use cofferdam_base::{Fault, FaultKind};
use cofferdam_proto::RemoteFailure;
use cofferdam_types::{Blame, SandboxSpec};
use serde::{Deserialize, Serialize};

/// A sandbox failure.
pub type Error = Fault<ErrorKind>;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for control flow. The snake-case names are stable: they stand in state files
/// and travel between client and supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No sandbox of that name or id, or no such template.
    NotFound,
    /// More than one sandbox has an id that starts so.
    Ambiguous,
    /// Another sandbox has that name.
    NameTaken,
    /// The sandbox is in a state in which this cannot be done.
    WrongState,
    /// The request contradicts itself or is out of range.
    InvalidSpec,
    /// This version, backend or host cannot do it.
    Unsupported,
    /// The image is not in the store.
    ImageNotFound,
    /// The image is damaged, hostile or for another platform.
    BadImage,
    /// A snapshot or template is damaged, hostile, or does not fit this version or host.
    BadSnapshot,
    /// An image or template is in use.
    InUse,
    /// Another program listens on the port of the host.
    PortTaken,
    /// No server in the sandbox listens there.
    ConnectionRefused,
    /// The server in the sandbox has reset the connection.
    ConnectionReset,
    /// The registry failed, lied or refused.
    Registry,
    /// The registry wants credentials, or other ones.
    Unauthorized,
    /// No backend works on this host.
    BackendUnavailable,
    /// The machine could not be started.
    StartFailed,
    /// The guest did not become ready, or broke its protocol.
    GuestFailed,
    /// The program is not in the root.
    ProgramNotFound,
    /// The program cannot be run.
    ProgramNotExecutable,
    /// The process could not be prepared: user, directory, limits, mounts.
    ProcessSetup,
    /// The supervisor is gone.
    SupervisorLost,
    /// It took longer than allowed.
    Timeout,
    /// It was cancelled.
    Cancelled,
    /// The host's memory is full.
    NoMemory,
    /// The sandbox's own memory is full.
    OutOfMemory,
    /// The host's disk is full.
    NoSpace,
    /// The host refuses access.
    Permission,
    /// The host refused something else.
    Io,
    /// Cofferdam broke one of its own rules.
    Bug,
}

impl FaultKind for ErrorKind {
    fn blame(self) -> Blame {
        match self {
            Self::BadImage
            | Self::GuestFailed
            | Self::ProgramNotFound
            | Self::ProgramNotExecutable
            | Self::OutOfMemory
            | Self::ConnectionRefused
            | Self::ConnectionReset
            | Self::ProcessSetup => Blame::Guest,
            Self::Registry | Self::Unauthorized => Blame::Remote,
            Self::BackendUnavailable
            | Self::StartFailed
            | Self::SupervisorLost
            | Self::Timeout
            | Self::NoMemory
            | Self::NoSpace
            | Self::Permission
            | Self::Io => Blame::Host,
            Self::Bug => Blame::Bug,
            _ => Blame::User,
        }
    }
}

impl ErrorKind {
    /// The stable snake-case name.
    #[must_use]
    pub fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// The kind of a stable name; [`ErrorKind::Bug`] for one that this version does not know.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        serde_json::from_value(serde_json::Value::from(name)).unwrap_or(Self::Bug)
    }
}

/// An I/O failure with what it was about.
pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull => Error::new(ErrorKind::NoSpace, what)
            .because(error)
            .hint("Free some space, or move the store with `COFFER_HOME`"),
        std::io::ErrorKind::PermissionDenied => {
            Error::new(ErrorKind::Permission, what).because(error)
        }
        _ => Error::new(ErrorKind::Io, what).because(error),
    }
}

/// The form in which a failure travels to a client or into a state file.
pub(crate) fn to_remote(error: &Error) -> RemoteFailure {
    RemoteFailure {
        kind: error.kind().name(),
        message: error.chain(),
        hint: error.hint_text().map(str::to_owned),
    }
}

/// What is said of a sandbox in which the guest's kernel killed a process for want of memory.
#[must_use]
pub fn memory_error(spec: &SandboxSpec) -> Error {
    let what = format!(
        "The sandbox's memory of {} MiB was full, and the guest's kernel killed a process",
        spec.memory.bytes() >> 20
    );
    Error::new(ErrorKind::OutOfMemory, what).hint("Give it more with `--memory`")
}

/// The failure that travelled.
#[must_use]
pub fn from_remote(failure: &RemoteFailure) -> Error {
    let error = Error::new(ErrorKind::from_name(&failure.kind), failure.message.clone());
    match &failure.hint {
        Some(hint) => error.hint(hint.clone()),
        None => error,
    }
}

impl From<cofferdam_disk::Error> for ConvertedError {
    fn from(error: cofferdam_disk::Error) -> Self {
        let kind = match error.kind() {
            cofferdam_disk::ErrorKind::InvalidSize => ErrorKind::InvalidSpec,
            cofferdam_disk::ErrorKind::NoSpace => ErrorKind::NoSpace,
            cofferdam_disk::ErrorKind::NotABundle
            | cofferdam_disk::ErrorKind::Newer { .. }
            | cofferdam_disk::ErrorKind::Damaged
            | cofferdam_disk::ErrorKind::TooLarge => ErrorKind::BadSnapshot,
            _ => ErrorKind::Io,
        };
        Self(rewrap(kind, error))
    }
}

impl From<cofferdam_backend::Error> for ConvertedError {
    fn from(error: cofferdam_backend::Error) -> Self {
        use cofferdam_backend::ErrorKind as Backend;
        let kind = match error.kind() {
            Backend::Unsupported => ErrorKind::Unsupported,
            Backend::Unavailable => ErrorKind::BackendUnavailable,
            Backend::InvalidSpec => ErrorKind::InvalidSpec,
            Backend::WrongState => ErrorKind::WrongState,
            Backend::BadSnapshot => ErrorKind::BadSnapshot,
            Backend::Gone => ErrorKind::GuestFailed,
            Backend::Io | Backend::Control if is_full(&error.chain()) => ErrorKind::NoSpace,
            Backend::Io => ErrorKind::Io,
            _ => ErrorKind::StartFailed,
        };
        Self(rewrap(kind, error))
    }
}

/// Whether a backend failed for want of room: its program has the host's words for it, errno(3).
fn is_full(chain: &str) -> bool {
    chain.contains("No space left on device") || chain.contains("Disk quota exceeded")
}

impl From<cofferdam_net::Error> for ConvertedError {
    fn from(error: cofferdam_net::Error) -> Self {
        use cofferdam_net::ErrorKind as Net;
        let kind = match error.kind() {
            Net::InvalidConfig | Net::InvalidRule => ErrorKind::InvalidSpec,
            Net::PortTaken => ErrorKind::PortTaken,
            Net::PortForbidden => ErrorKind::Permission,
            Net::NotPublished => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self(rewrap(kind, error))
    }
}

impl From<cofferdam_secrets::Error> for ConvertedError {
    fn from(error: cofferdam_secrets::Error) -> Self {
        Self(rewrap(ErrorKind::Io, error))
    }
}

impl From<cofferdam_image::Error> for ConvertedError {
    fn from(error: cofferdam_image::Error) -> Self {
        use cofferdam_image::ErrorKind as Image;
        let kind = match error.kind() {
            Image::NotFound => ErrorKind::ImageNotFound,
            Image::InvalidReference => ErrorKind::InvalidSpec,
            Image::Unauthorized => ErrorKind::Unauthorized,
            Image::DigestMismatch
            | Image::TooLarge
            | Image::Corrupt
            | Image::PlatformMismatch
            | Image::Unsupported => ErrorKind::BadImage,
            Image::Registry | Image::Untrusted => ErrorKind::Registry,
            Image::Timeout => ErrorKind::Timeout,
            Image::NoSpace => ErrorKind::NoSpace,
            Image::InUse => ErrorKind::InUse,
            Image::Permission => ErrorKind::Permission,
            Image::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Io,
        };
        Self(rewrap(kind, error))
    }
}

/// A lower crate's failure as a runtime one; the sentence, hint and cause stay what they were.
#[derive(Debug)]
pub(crate) struct ConvertedError(pub(crate) Error);

/// Lifts a lower crate's result.
pub(crate) fn lift<T, E: Into<ConvertedError>>(result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| error.into().0)
}

/// Lifts an image store's result; for the SDK, which offers that store.
///
/// # Errors
/// The same failure as a runtime one.
pub fn lift_image<T>(result: cofferdam_image::Result<T>) -> Result<T> {
    lift(result)
}

fn rewrap<K: FaultKind>(kind: ErrorKind, error: Fault<K>) -> Error {
    error.with_kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire() {
        let error = Error::new(ErrorKind::ProgramNotFound, "`nope` is not there").hint("Look");
        let back = from_remote(&to_remote(&error));
        assert_eq!(back.kind(), ErrorKind::ProgramNotFound);
        assert_eq!(back.to_string(), "`nope` is not there");
        assert_eq!(back.hint_text(), Some("Look"));
    }

    #[test]
    fn an_unknown_kind_is_our_bug_not_a_panic() {
        assert_eq!(ErrorKind::from_name("from_the_future"), ErrorKind::Bug);
    }

    #[test]
    fn a_backend_that_found_no_room_says_so() {
        for (cause, kind) in [
            ("No space left on device", ErrorKind::NoSpace),
            ("Input/output error", ErrorKind::Io),
        ] {
            let low = cofferdam_backend::Error::new(cofferdam_backend::ErrorKind::Io, "Failed")
                .because(std::io::Error::other(cause));
            assert_eq!(lift::<(), _>(Err(low)).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn lifting_keeps_sentence_hint_and_cause() {
        let low = cofferdam_disk::Error::new(cofferdam_disk::ErrorKind::NoSpace, "Full")
            .hint("Free some")
            .because(std::io::Error::other("ENOSPC"));
        let error = lift::<(), _>(Err(low)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.chain(), "Full: ENOSPC");
        assert_eq!(error.hint_text(), Some("Free some"));
    }
}
