//! The ways in which the registry fails and lies.

/// How the registry wants to know its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// It does not.
    #[default]
    None,
    /// Basic, with this user name and password.
    Basic(String, String),
    /// A token, which it gives to this user; without one, to anybody.
    Token(Option<(String, String)>),
    /// A scheme that nobody knows.
    Unknown,
}

/// One fault. `path` is any part of the request's path, such as a digest.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with a status, the first `times` times.
    Status {
        /// Part of the path.
        path: String,
        /// The status.
        status: u16,
        /// How often.
        times: u32,
        /// Seconds for `Retry-After`.
        retry_after: Option<u64>,
    },
    /// Breaks the connection after `at` bytes of the body, the first `times` times.
    Cut {
        /// Part of the path.
        path: String,
        /// Bytes before the break.
        at: usize,
        /// How often.
        times: u32,
    },
    /// Goes silent after `at` bytes of the body, until the client hangs up.
    Stall {
        /// Part of the path.
        path: String,
        /// Bytes before the silence.
        at: usize,
        /// How often.
        times: u32,
    },
    /// Turns over the bits of the byte at `at`.
    Corrupt {
        /// Part of the path.
        path: String,
        /// Which byte.
        at: usize,
    },
    /// Serves only the first `length` bytes, as if they were all; or more by zeros.
    Length {
        /// Part of the path.
        path: String,
        /// The length that it pretends.
        length: usize,
    },
    /// Ignores ranges and answers from the first byte.
    NoRanges,
    /// Answers a request for a part with this status.
    RefuseRanges(u16),
    /// Answers with this in place of what it has; also for `/token`.
    Body {
        /// Part of the path.
        path: String,
        /// Headers besides.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// Redirects to the same path at another address, such as `http://localhost:1`.
    Redirect {
        /// Part of the path.
        path: String,
        /// Scheme, host and port.
        to: String,
    },
    /// Claims a digest for a manifest that is not its own.
    ClaimDigest {
        /// The claim.
        digest: String,
    },
}

impl Fault {
    /// Whether the fault is for `path` and still has a turn, which this takes.
    pub(super) fn applies(&mut self, path: &str) -> bool {
        let (part, times) = match self {
            Self::Status { path, times, .. }
            | Self::Cut { path, times, .. }
            | Self::Stall { path, times, .. } => (path, Some(times)),
            Self::Corrupt { path, .. }
            | Self::Length { path, .. }
            | Self::Redirect { path, .. }
            | Self::Body { path, .. } => (path, None),
            Self::NoRanges | Self::RefuseRanges(_) | Self::ClaimDigest { .. } => return true,
        };
        if !path.contains(part.as_str()) {
            return false;
        }
        match times {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}
