//! What a guest may reach: ordered rules, then the profile. The first match wins.
//!
//! A pure module: it does no I/O and keeps no state but the rules. The names of an address come
//! from the DNS answers that the stack has given, and the caller passes them in.
//!
//! A rule is `allow TARGET[:PORTS][/PROTOCOL]` or `deny …`. docs/network.md has the semantics, and
//! its table of denied networks is the one of `reserved`.

mod cidr;
mod decide;
mod file;
mod host;
mod ports;
mod reserved;
mod rule;
mod target;
#[cfg(test)]
mod tests;

pub use cidr::Cidr;
pub use decide::{Decision, Denial, Query, Reason};
pub use file::PolicyText;
pub use host::host_addresses;
pub use ports::Ports;
pub use reserved::{RESERVED, Reserved};
pub use rule::{Action, Protocol, Rule};
pub use target::{Name, Target};

use std::{fmt, net::IpAddr, str::FromStr};

use crate::error::{Error, ErrorKind};

/// What holds when no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Public addresses and names; nothing of [`RESERVED`] and nothing of the host.
    #[default]
    Public,
    /// Nothing.
    None,
    /// Every unicast address besides the host's own.
    All,
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "public" => Ok(Self::Public),
            "none" => Ok(Self::None),
            "all" => Ok(Self::All),
            _ => Err(Error::new(
                ErrorKind::InvalidRule,
                format!("Unknown network profile `{text}`"),
            )
            .hint("Use `public`, `none` or `all`")),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::None => "none",
            Self::All => "all",
        })
    }
}

/// The whole policy of one sandbox.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Holds when no rule matches.
    pub profile: Profile,
    /// In the order in which they are tried.
    pub rules: Vec<Rule>,
    /// Every address of the host itself; see [`host_addresses`].
    pub host_addresses: Vec<IpAddr>,
}

impl Policy {
    /// A policy of `profile` and `rules` on a host without addresses of its own.
    #[must_use]
    pub fn new(profile: Profile, rules: Vec<Rule>) -> Self {
        Self {
            profile,
            rules,
            host_addresses: Vec::new(),
        }
    }
}
