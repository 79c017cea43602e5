//! The first part of a rule: which addresses or names it is about.

use std::{fmt, str::FromStr};

use super::cidr::Cidr;
use crate::error::{Error, ErrorKind};

/// Which destinations a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `*`: every destination besides the host.
    Any,
    /// `public`: every address that the profile `public` allows.
    Public,
    /// `host`: the host's loopback, by `host.coffer.internal`.
    Host,
    /// An address or a network.
    Network(Cidr),
    /// `example.com`: this name only.
    Name(Name),
    /// `*.example.com`: every name below it, and not itself.
    Suffix(Name),
}

/// A name of the DNS in lower case, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is below `suffix`.
    #[must_use]
    pub fn is_below(&self, suffix: &Self) -> bool {
        let start = self.0.strip_suffix(suffix.as_str());
        start.is_some_and(|start| start.len() > 1 && start.ends_with('.'))
    }
}

impl FromStr for Name {
    type Err = Error;

    /// Reads a name. Names of other scripts have to be in their ASCII form (`xn--…`).
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(
                ErrorKind::InvalidRule,
                format!("`{}` is no name of a host: {why}", shortened(text)),
            )
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 253 {
            return Err(invalid("it has not 1 to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(invalid("a label has not 1 to 63 characters"));
            }
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if !label.bytes().all(allowed) {
                return Err(invalid(
                    "only letters, digits, `-`, `_` and `.` are allowed",
                ));
            }
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

/// A text as an error shows it: printable, and not longer than a line.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.escape_debug().take(MOST).collect();
    if text.escape_debug().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Target {
    /// Whether it names hosts rather than addresses.
    #[must_use]
    pub fn is_name(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Suffix(_))
    }

    /// Whether `name` is one of those it names; never for a target of addresses.
    #[must_use]
    pub fn matches_name(&self, name: &Name) -> bool {
        match self {
            Self::Any | Self::Public | Self::Host | Self::Network(_) => false,
            Self::Name(own) => own == name,
            Self::Suffix(suffix) => name.is_below(suffix),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        match text {
            "*" | "any" => return Ok(Self::Any),
            "public" => return Ok(Self::Public),
            "host" | crate::config::HOST_NAME => return Ok(Self::Host),
            "localhost" => {
                let what = "`localhost` is the sandbox itself, which needs no rule";
                return Err(Error::new(ErrorKind::InvalidRule, what)
                    .hint("Write `host:PORT` for a port of the host's loopback"));
            }
            _ => {}
        }
        if let Some(suffix) = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')) {
            return Ok(Self::Suffix(suffix.parse()?));
        }
        if text.contains([':', '/']) || digits(text) {
            return Ok(Self::Network(text.parse()?));
        }
        Ok(Self::Name(text.parse()?))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Public => f.write_str("public"),
            Self::Host => f.write_str("host"),
            Self::Network(cidr) => cidr.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Suffix(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_suffix_matches_below_it_and_not_itself_or_a_longer_label() {
        let target: Target = "*.Example.com".parse().unwrap();
        assert!(target.matches_name(&name("a.example.com")));
        assert!(target.matches_name(&name("a.b.EXAMPLE.com.")));
        assert!(!target.matches_name(&name("example.com")));
        assert!(!target.matches_name(&name("badexample.com")));
        let target: Target = "example.com".parse().unwrap();
        assert!(target.matches_name(&name("example.COM")));
        assert!(!target.matches_name(&name("a.example.com")));
    }

    #[test]
    fn targets_are_printed_as_they_were_read() {
        for text in [
            "*",
            "public",
            "host",
            "10.0.0.0/8",
            "::1",
            "example.com",
            "*.example.com",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!(
            "host.coffer.internal".parse::<Target>().unwrap(),
            Target::Host
        );
    }

    #[test]
    fn an_error_has_a_hint_for_the_hosts_loopback_and_no_text_without_end() {
        let error = "localhost".parse::<Target>().unwrap_err();
        assert!(error.hint_text().unwrap().contains("`host:PORT`"));
        let error = "a".repeat(5000).parse::<Target>().unwrap_err();
        assert!(error.to_string().chars().count() < 200, "{error}");
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["", "a..b", "1.2.3", "1.2.3.4.5", "a b", "*", "ex*mple.com"] {
            assert_eq!(text.parse::<Target>().is_err(), text != "*", "{text}");
        }
        assert!("a".repeat(64).parse::<Target>().is_err());
        assert!(vec!["a"; 128].join(".").parse::<Target>().is_err());
    }
}
