//! One rule: action, target, ports and protocol.

use std::{fmt, str::FromStr};

use super::{
    ports::Ports,
    target::{Target, shortened},
};
use crate::error::{Error, ErrorKind, Result};

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Refuses it.
    Deny,
}

/// A protocol that policies know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo. It has no ports.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// `allow TARGET[:PORTS][/PROTOCOL]` or `deny …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Which destinations it is about.
    pub target: Target,
    /// Which ports; all for ICMP.
    pub ports: Ports,
    /// Which protocol; absent: every one, or TCP if the rule allows names.
    pub protocol: Option<Protocol>,
}

impl Rule {
    /// Reads the part after `allow`, as a flag `--allow` has it.
    ///
    /// # Errors
    /// `InvalidRule`, with the part that does not parse.
    pub fn allow(text: &str) -> Result<Self> {
        Self::parse(Action::Allow, text)
    }

    /// Reads the part after `deny`, as a flag `--deny` has it.
    ///
    /// # Errors
    /// `InvalidRule`, with the part that does not parse.
    pub fn deny(text: &str) -> Result<Self> {
        Self::parse(Action::Deny, text)
    }

    fn parse(action: Action, text: &str) -> Result<Self> {
        let (rest, protocol) = split_protocol(text);
        let (target, ports) = split_ports(rest)?;
        if protocol == Some(Protocol::Icmp) && ports.is_some() {
            return Err(invalid(text, "ICMP has no ports"));
        }
        if target.is_empty() {
            return Err(invalid(text, "it has no target"));
        }
        Ok(Self {
            action,
            target: target.parse()?,
            ports: ports.map_or_else(|| Ok(Ports::all()), str::parse)?,
            protocol,
        })
    }

    /// Whether it is about this protocol and port.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        let protocols = match self.protocol {
            Some(own) => own == protocol,
            // The name of a datagram's server cannot be checked (QUIC hides it), so a rule that
            // allows a name has to say `/udp` to mean it.
            None if self.target.is_name() && self.action == Action::Allow => {
                protocol == Protocol::Tcp
            }
            None => true,
        };
        let ports = match protocol {
            Protocol::Icmp => self.ports.is_all(),
            Protocol::Tcp | Protocol::Udp => self.ports.contains(port),
        };
        protocols && ports
    }
}

impl Rule {
    /// Whether it is about every port and every protocol.
    pub(super) fn is_whole(&self) -> bool {
        self.ports.is_all() && self.protocol.is_none()
    }
}

fn invalid(text: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidRule,
        format!("`{}` is no rule: {why}", shortened(text)),
    )
    .hint("Write `TARGET[:PORTS][/tcp|udp|icmp]`, for example `example.com:443` or `[fd00::/8]:22/tcp`")
}

/// Cuts a protocol off the end.
fn split_protocol(text: &str) -> (&str, Option<Protocol>) {
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
        let end = format!("/{protocol}");
        if let Some(rest) = text.strip_suffix(&end) {
            return (rest, Some(protocol));
        }
    }
    (text, None)
}

/// Cuts ports off the end. IPv6 with ports needs brackets.
fn split_ports(text: &str) -> Result<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (target, after) = rest
            .split_once(']')
            .ok_or_else(|| invalid(text, "a bracket is not closed"))?;
        return match after.strip_prefix(':') {
            Some(ports) => Ok((target, Some(ports))),
            None if after.is_empty() => Ok((target, None)),
            None => Err(invalid(text, "after `]` comes `:` and ports")),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((target, ports)) => Ok((target, Some(ports))),
        None => Ok((text, None)),
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().split_once(char::is_whitespace) {
            Some(("allow", rest)) => Self::allow(rest.trim()),
            Some(("deny", rest)) => Self::deny(rest.trim()),
            None if matches!(text.trim(), "allow" | "deny") => {
                Err(invalid(text.trim(), "it has no target"))
            }
            _ => Err(invalid(text, "it begins with neither `allow` nor `deny`")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.action {
            Action::Allow => "allow ",
            Action::Deny => "deny ",
        })?;
        let target = self.target.to_string();
        if self.ports.is_all() {
            f.write_str(&target)?;
        } else if target.contains(':') {
            write!(f, "[{target}]:{}", self.ports)?;
        } else {
            write!(f, "{target}:{}", self.ports)?;
        }
        self.protocol
            .map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_printed_as_they_were_read() {
        for text in [
            "allow *",
            "deny *:853",
            "allow host:5432",
            "allow 10.0.0.0/8",
            "allow 10.0.0.0/8:22/tcp",
            "deny 10.0.0.0/8/udp",
            "allow [fd00::/8]:22-23,80/tcp",
            "allow fd00::/8",
            "allow fd00::1/icmp",
            "allow example.com:443",
            "deny *.example.com",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        for (text, why) in [
            ("permit *", "neither"),
            ("allow", "no target"),
            ("allow ", "no target"),
            ("allow :80", "no target"),
            ("allow *:80/icmp", "ICMP"),
            ("allow *:http", "ports"),
            ("allow *:80/sctp", "ports"),
            ("allow [::1", "bracket"),
            ("allow [::1]80", "after"),
            ("allow 10.0.0.1/8", "bits past"),
            ("allow fd00::1:80/99999", "no number"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRule);
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.hint_text().is_some(), "{text}");
        }
    }

    #[test]
    fn a_name_without_a_protocol_is_allowed_for_tcp_only() {
        let rule = Rule::allow("example.com:443").unwrap();
        assert!(rule.covers(Protocol::Tcp, 443));
        assert!(!rule.covers(Protocol::Udp, 443));
        assert!(
            Rule::allow("example.com:443/udp")
                .unwrap()
                .covers(Protocol::Udp, 443)
        );
        assert!(
            Rule::deny("example.com")
                .unwrap()
                .covers(Protocol::Udp, 443)
        );
    }

    #[test]
    fn a_rule_with_ports_is_not_about_icmp() {
        assert!(!Rule::allow("*:80").unwrap().covers(Protocol::Icmp, 0));
        assert!(Rule::allow("*").unwrap().covers(Protocol::Icmp, 0));
    }
}
