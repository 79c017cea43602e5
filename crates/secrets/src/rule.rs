//! A secret with its value, and what is reported about it.

use std::fmt;

use cofferdam_types::{SecretSpec, SecretValue};

/// Shortest value that is masked in answers: a shorter one would be found by chance.
const MIN_MASKED_BYTES: usize = 6;

/// A secret with its value. `Debug` shows no value.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, hosts, options and placeholder.
    pub spec: SecretSpec,
    /// Its value.
    pub value: SecretValue,
}

/// Something that the user may want to see. No field has a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A placeholder was on its way to a host that may not have the value. The request was blocked.
    Misplaced {
        /// The secret.
        name: String,
        /// The host.
        host: String,
    },
    /// The certificate of a server was not accepted, or its handshake failed.
    Unverified {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// A flow was closed because as many as the limit are open.
    FlowLimit,
    /// The proxy serves no flow, for this reason.
    Stopped(String),
}

/// What the thread and all flows share.
pub(crate) struct Shared {
    pub(crate) rules: Vec<Rule>,
    pub(crate) bypass: Vec<String>,
    pub(crate) report: Box<dyn Fn(Report) + Send + Sync>,
}

impl fmt::Display for Report {
    /// A sentence without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misplaced { name, host } => {
                write!(
                    f,
                    "Blocked the placeholder of the secret `{name}` to `{host}`"
                )
            }
            Self::Unverified { host, reason } => {
                write!(f, "Could not verify the server `{host}`: {reason}")
            }
            Self::FlowLimit => {
                write!(
                    f,
                    "Closed a TLS flow: {} are open, the limit",
                    crate::MAX_FLOWS
                )
            }
            Self::Stopped(reason) => {
                write!(f, "Could not confine the proxy of the secrets: {reason}")
            }
        }
    }
}

impl Rule {
    /// Whether an answer that repeats the value is changed.
    pub(crate) fn is_masked(&self) -> bool {
        self.value.expose().len() >= MIN_MASKED_BYTES
    }
}
