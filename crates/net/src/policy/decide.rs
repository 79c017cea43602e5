//! The decision about one destination.

use std::{fmt, net::IpAddr};

use super::{
    Policy, Profile,
    reserved::{self, Reserved},
    rule::{Action, Protocol},
    target::{Name, Target},
};

/// A destination that the guest asks for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// How.
    pub protocol: Protocol,
    /// Where; for the host's loopback the address that stands for it.
    pub address: IpAddr,
    /// 0 for ICMP.
    pub port: u16,
    /// Whether `address` stands for the host's loopback.
    pub is_host: bool,
    /// Whether the host has this address now; [`Policy::host_addresses`] may be older.
    pub is_own: bool,
    /// The names for which DNS answers gave this address to the guest.
    pub names: &'a [Name],
}

/// Whether the guest reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It does.
    Allow {
        /// Only because of a name, so the name that the guest says in TLS or HTTP must be
        /// allowed too.
        by_name: bool,
    },
    /// It does not.
    Deny(Denial),
}

/// A refusal, with its reason and the rule that would lift it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// The text after `allow` of a rule that would allow this and nothing else.
    pub allow: String,
}

/// Why a destination is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule denies it: its text.
    Rule(String),
    /// The profile allows nothing by itself.
    Profile,
    /// A reserved network.
    Reserved(&'static Reserved),
    /// An address of the host itself, or its loopback.
    Host,
    /// The guest's own address.
    Own,
    /// Each network of the guest is internal; no rule opens anything but their members.
    Internal,
    /// A rule on a name has opened the address, and the name in TLS or HTTP cannot be read.
    HiddenName,
    /// QUIC of a sandbox with secrets, whose proxy sees TLS over TCP alone.
    Secrets,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "the rule `{rule}` denies it"),
            Self::Profile => f.write_str("no rule allows it"),
            Self::Reserved(line) => write!(f, "{} is {}", line.network, line.name),
            Self::Host => f.write_str("it is the host itself"),
            Self::Own => f.write_str("it is the sandbox itself"),
            Self::Internal => f.write_str("its network is internal"),
            Self::Secrets => f.write_str("secrets are put in over TCP, and not over QUIC"),
            Self::HiddenName => f.write_str("it hides the name that a rule is about"),
        }
    }
}

impl Policy {
    /// Decides about an address. A rule that allows a name opens neither the host nor an address
    /// that the profile keeps closed: who serves the name chooses its addresses, so only a rule on
    /// an address or on `host` opens such a place.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Decision {
        for rule in &self.rules {
            if !rule.covers(query.protocol, query.port) {
                continue;
            }
            let matches = match &rule.target {
                Target::Any => !query.is_host && !query.is_own && !self.is_never(query.address),
                Target::Public => self.is_public(query),
                Target::Host => query.is_host,
                Target::Network(cidr) => !query.is_host && cidr.contains(query.address),
                Target::Name(_) | Target::Suffix(_) => {
                    let may = rule.action == Action::Deny || !self.is_closed_to_names(query);
                    may && query
                        .names
                        .iter()
                        .any(|name| rule.target.matches_name(name))
                }
            };
            if matches {
                return match rule.action {
                    Action::Allow => Decision::Allow {
                        by_name: rule.target.is_name(),
                    },
                    Action::Deny => self.deny(query, Reason::Rule(rule.to_string())),
                };
            }
        }
        match self.by_profile(query) {
            None => Decision::Allow { by_name: false },
            Some(reason) => self.deny(query, reason),
        }
    }

    /// Decides about a member of one of the guest's named networks: only rules count, and no rule
    /// that matches leaves it open.
    #[must_use]
    pub fn decide_member(&self, query: &Query<'_>) -> Decision {
        let matches = |target: &Target| match target {
            Target::Any => true,
            Target::Public | Target::Host => false,
            Target::Network(cidr) => cidr.contains(query.address),
            Target::Name(_) | Target::Suffix(_) => {
                query.names.iter().any(|name| target.matches_name(name))
            }
        };
        let mut rules = self.rules.iter();
        let first =
            rules.find(|rule| rule.covers(query.protocol, query.port) && matches(&rule.target));
        match first {
            Some(rule) if rule.action == Action::Deny => {
                self.deny(query, Reason::Rule(rule.to_string()))
            }
            _ => Decision::Allow { by_name: false },
        }
    }

    /// Decides whether the guest may look a name up; absent: one that no rule can be about. Every
    /// rule about the name counts, whatever its ports. And `deny *` denies each name that no
    /// earlier rule allows, for a look-up itself carries data to the servers of the name.
    #[must_use]
    pub fn decide_lookup(&self, name: Option<&Name>) -> Decision {
        let allows = |target: &Target| match target {
            // The addresses behind every name are open, so the names have to be.
            Target::Any | Target::Public => true,
            target => name.is_some_and(|name| target.matches_name(name)),
        };
        let first = self.rules.iter().find(|rule| match rule.action {
            Action::Allow => allows(&rule.target),
            Action::Deny => rule.target == Target::Any && rule.is_whole(),
        });
        let reason = match (first, name) {
            (Some(rule), _) if rule.action == Action::Deny => Reason::Rule(rule.to_string()),
            (_, Some(name)) => return self.decide_name(name, None),
            (_, None) if self.profile == Profile::None => Reason::Profile,
            (_, None) => return Decision::Allow { by_name: false },
        };
        Decision::Deny(Denial {
            reason,
            allow: name.map(Name::to_string).unwrap_or_default(),
        })
    }

    /// Decides about a name: whether the guest may say it in TLS and HTTP on `port`, or get the
    /// addresses behind it. Without a port every rule about the name counts.
    #[must_use]
    pub fn decide_name(&self, name: &Name, port: Option<u16>) -> Decision {
        for rule in &self.rules {
            let ports = port.is_none_or(|port| rule.ports.contains(port));
            // A denial for some ports only is no reason to hide the name.
            let whole = rule.action == Action::Allow || port.is_some() || rule.ports.is_all();
            if rule.target.matches_name(name) && ports && whole {
                return match rule.action {
                    Action::Allow => Decision::Allow { by_name: true },
                    Action::Deny => Decision::Deny(Denial {
                        reason: Reason::Rule(rule.to_string()),
                        allow: name.to_string(),
                    }),
                };
            }
        }
        match self.profile {
            Profile::None => Decision::Deny(Denial {
                reason: Reason::Profile,
                allow: name.to_string(),
            }),
            Profile::Public | Profile::All => Decision::Allow { by_name: false },
        }
    }

    /// Whether some rule denies a name, so that names in TLS and HTTP are checked everywhere.
    #[must_use]
    pub fn denies_names(&self) -> bool {
        let denies = |rule: &super::Rule| rule.action == Action::Deny && rule.target.is_name();
        self.rules.iter().any(denies)
    }

    /// Whether an address in the answer to a lookup of a public name is refused: it would lead
    /// the guest into a private network (DNS rebinding).
    #[must_use]
    pub fn is_private_answer(&self, address: IpAddr) -> bool {
        let first = self.rules.iter().find(|rule| match &rule.target {
            Target::Network(cidr) => {
                cidr.contains(address) && (rule.action == Action::Allow || rule.is_whole())
            }
            _ => false,
        });
        let allowed = first.is_some_and(|rule| rule.action == Action::Allow);
        !allowed && self.is_closed(address)
    }

    /// Whether the profile keeps an address closed.
    fn is_closed(&self, address: IpAddr) -> bool {
        match self.profile {
            Profile::All => self.is_never(address),
            Profile::Public | Profile::None => {
                reserved::find(address).is_some() || self.host_addresses.contains(&address)
            }
        }
    }

    /// Whether no rule that allows a name opens the destination.
    fn is_closed_to_names(&self, query: &Query<'_>) -> bool {
        query.is_host || query.is_own || self.is_closed(query.address)
    }

    /// Whether a rule for every address leaves it out.
    fn is_never(&self, address: IpAddr) -> bool {
        reserved::find(address).is_some_and(|line| line.always)
            || self.host_addresses.contains(&address)
    }

    fn is_public(&self, query: &Query<'_>) -> bool {
        !query.is_host
            && !query.is_own
            && !self.host_addresses.contains(&query.address)
            && reserved::find(query.address).is_none()
    }

    fn by_profile(&self, query: &Query<'_>) -> Option<Reason> {
        if query.is_host || query.is_own || self.host_addresses.contains(&query.address) {
            return Some(Reason::Host);
        }
        let line = reserved::find(query.address);
        match self.profile {
            Profile::None => Some(line.map_or(Reason::Profile, Reason::Reserved)),
            Profile::Public => line.map(Reason::Reserved),
            Profile::All => line.filter(|line| line.always).map(Reason::Reserved),
        }
    }

    fn deny(&self, query: &Query<'_>, reason: Reason) -> Decision {
        let port = query.port;
        let protocol = query.protocol;
        let name = query.names.first();
        let target = if query.is_host {
            "host".to_owned()
        } else if let Some(name) = name.filter(|_| !self.is_closed_to_names(query)) {
            name.to_string()
        } else if query.address.is_ipv6() && protocol != Protocol::Icmp {
            format!("[{}]", query.address)
        } else {
            query.address.to_string()
        };
        let allow = match protocol {
            Protocol::Icmp => format!("{target}/icmp"),
            Protocol::Tcp | Protocol::Udp => format!("{target}:{port}/{protocol}"),
        };
        Decision::Deny(Denial { reason, allow })
    }
}
