//! Changes of a sandbox's network: what its spec is afterwards, and what the stack has to do.

use cofferdam_net::Policy;
use cofferdam_proto::NetworkChange;
use cofferdam_types::{ByteSize, NetworkMode, NetworkSpec, PortMapping};

use super::{check, policy, rate};
use crate::base::error::{Error, ErrorKind, Result, lift};

/// Most sentences about one change.
const MAX_SENTENCES: usize = 16;

/// A change that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// The network afterwards, as the next start has it too.
    pub(crate) spec: NetworkSpec,
    /// Whether flows are looked at again.
    pub(super) resets_flows: bool,
    /// Ports that are to be published.
    pub(super) publish: Vec<PortMapping>,
    /// Ports that are not to be published any more, as they are published now.
    pub(super) unpublish: Vec<PortMapping>,
}

/// Checks `change` against the network `spec`, whose published ports are `ports` now, in the order
/// of `spec`.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] when there is no network, or of a rule or port that cannot be;
/// [`ErrorKind::NotFound`] for a port that is not published.
pub(crate) fn planned(
    spec: &NetworkSpec,
    ports: &[PortMapping],
    change: &NetworkChange,
) -> Result<Planned> {
    if spec.mode == NetworkMode::None {
        let what = "The sandbox has no network";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("A network cannot be added: make the sandbox with one"));
    }
    let mut spec = spec.clone();
    let mut unpublish = Vec::new();
    let mut left = ports.to_vec();
    for wanted in &change.unpublish {
        let before = left.len();
        // From the end, so that the places of earlier ones stay.
        for at in (0..before).rev() {
            if left.get(at).is_some_and(|port| is_meant(wanted, port)) {
                unpublish.push(left.remove(at));
                if at < spec.publish.len() {
                    spec.publish.remove(at);
                }
            }
        }
        if left.len() == before {
            return Err(not_published(wanted));
        }
    }
    // A start would publish what the image exposes again.
    spec.publish_all &= change.unpublish.is_empty();
    spec.publish.extend(&change.publish);
    if let Some(rules) = &change.rules {
        spec.rules.clone_from(rules);
    }
    // The same rule again would never match where it was.
    spec.rules
        .retain(|rule| !change.rules_before.contains(rule));
    spec.rules.splice(0..0, change.rules_before.iter().cloned());
    if change.profile.is_some() {
        spec.profile.clone_from(&change.profile);
    }
    let limit = |bytes: u64| (bytes != 0).then(|| ByteSize::from_bytes(bytes));
    spec.rate_up = change.rate_up.map_or(spec.rate_up, limit);
    spec.rate_down = change.rate_down.map_or(spec.rate_down, limit);
    check(&spec)?;
    Ok(Planned {
        spec,
        resets_flows: !change.keep_flows,
        publish: change.publish.clone(),
        unpublish,
    })
}

/// Whether `wanted` names the published `port`.
fn is_meant(wanted: &PortMapping, port: &PortMapping) -> bool {
    (wanted.guest, wanted.protocol) == (port.guest, port.protocol)
        && (wanted.host.port() == 0 || wanted.host == port.host)
}

fn not_published(wanted: &PortMapping) -> Error {
    let port = match wanted.host.port() {
        0 => format!("{}/{}", wanted.guest, wanted.protocol),
        _ => wanted.to_string(),
    };
    let what = format!("The port `{port}` is not published");
    Error::new(ErrorKind::NotFound, what).hint("List the ports with `coffer port`")
}

impl Planned {
    /// Whether it takes a published port away.
    pub(crate) fn is_unpublished(&self, port: &PortMapping) -> bool {
        self.unpublish.contains(port)
    }

    /// The policy afterwards.
    ///
    /// # Errors
    /// Of a rule, or when the host's addresses cannot be read.
    pub(crate) fn policy(&self) -> Result<Policy> {
        let mut policy = policy(&self.spec)?;
        policy.host_addresses = lift(cofferdam_net::host_addresses())?;
        Ok(policy)
    }

    /// The rate limits afterwards.
    pub(super) fn rate(&self) -> cofferdam_net::Rate {
        rate(&self.spec)
    }

    /// What is different, one phrase each.
    pub(crate) fn sentences(&self, old: &NetworkSpec) -> Vec<String> {
        let mut all = Vec::new();
        if self.spec.profile != old.profile {
            let profile = self.spec.profile.as_deref().unwrap_or("public");
            all.push(format!("profile {profile}"));
        }
        if self.spec.rules != old.rules {
            let is_new = |rule: &&String| !old.rules.contains(rule);
            let is_gone = |rule: &&String| !self.spec.rules.contains(rule);
            let new = self.spec.rules.iter().filter(is_new);
            all.extend(new.map(|rule| format!("new rule `{rule}`")));
            let gone = old.rules.iter().filter(is_gone);
            all.extend(gone.map(|rule| format!("without the rule `{rule}`")));
        }
        for (now, before, way) in [
            (self.spec.rate_up, old.rate_up, "from"),
            (self.spec.rate_down, old.rate_down, "to"),
        ] {
            if now != before {
                let limit = now.map_or_else(|| "no limit".to_owned(), |rate| format!("{rate}/s"));
                all.push(format!("rate {way} the guest: {limit}"));
            }
        }
        all.extend(self.publish.iter().map(|port| format!("publishes {port}")));
        let closed = self.unpublish.iter();
        all.extend(closed.map(|port| format!("does not publish {port}")));
        let more = all.len().saturating_sub(MAX_SENTENCES);
        if more > 0 {
            all.truncate(MAX_SENTENCES);
            all.push(format!("and {more} more changes"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(texts: &[&str]) -> Vec<PortMapping> {
        let ports = texts.iter().map(|text| PortMapping::parse_all(text));
        ports
            .collect::<std::result::Result<Vec<_>, _>>()
            .unwrap()
            .concat()
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn spec() -> NetworkSpec {
        NetworkSpec {
            mode: NetworkMode::Default,
            rules: owned(&["allow a.example"]),
            publish: ports(&["80", "8443:443", "53/udp"]),
            ..NetworkSpec::default()
        }
    }

    /// As the kernel has chosen them.
    fn live() -> Vec<PortMapping> {
        ports(&["4000:80", "8443:443", "4001:53/udp"])
    }

    #[test]
    fn the_same_rule_again_is_there_once_and_first() {
        let change = |rules: &[&str]| NetworkChange {
            rules_before: owned(rules),
            ..NetworkChange::default()
        };
        let mut spec = spec();
        for rules in [&["deny b.example"][..], &["allow *"], &["deny b.example"]] {
            spec = super::planned(&spec, &live(), &change(rules)).unwrap().spec;
        }
        assert_eq!(spec.rules, ["deny b.example", "allow *", "allow a.example"]);
    }

    #[test]
    fn rules_come_before_those_that_are_there_or_in_their_place() {
        let before = NetworkChange {
            rules_before: owned(&["deny b.example", "allow *"]),
            profile: Some("none".to_owned()),
            ..NetworkChange::default()
        };
        let planned = super::planned(&spec(), &live(), &before).unwrap();
        assert_eq!(
            planned.spec.rules,
            ["deny b.example", "allow *", "allow a.example"]
        );
        assert_eq!(planned.spec.profile.as_deref(), Some("none"));
        let expected = [
            "profile none",
            "new rule `deny b.example`",
            "new rule `allow *`",
        ];
        assert_eq!(planned.sentences(&spec()), expected);
        let instead = NetworkChange {
            rules: Some(owned(&["deny c.example"])),
            ..before
        };
        let planned = super::planned(&spec(), &live(), &instead).unwrap();
        assert_eq!(
            planned.spec.rules,
            ["deny b.example", "allow *", "deny c.example"]
        );
    }

    #[test]
    fn a_port_is_meant_by_the_guests_or_by_the_hosts_too() {
        let without = |texts: &[&str]| {
            let change = NetworkChange {
                unpublish: ports(texts),
                ..NetworkChange::default()
            };
            super::planned(&spec(), &live(), &change)
        };
        let planned = without(&["80", "53/udp"]).unwrap();
        assert_eq!(planned.spec.publish, ports(&["8443:443"]));
        assert_eq!(planned.unpublish, ports(&["4000:80", "4001:53/udp"]));
        let planned = without(&["8443:443"]).unwrap();
        assert_eq!(planned.spec.publish, ports(&["80", "53/udp"]));
        for wrong in ["53", "8444:443", "81"] {
            let error = without(&[wrong]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_zero_takes_a_limit_off() {
        let limited = NetworkSpec {
            rate_up: Some(ByteSize::from_bytes(5)),
            ..spec()
        };
        let change = NetworkChange {
            rate_up: Some(0),
            rate_down: Some(7),
            ..NetworkChange::default()
        };
        let planned = super::planned(&limited, &live(), &change).unwrap();
        assert_eq!(planned.spec.rate_up, None);
        assert_eq!(planned.spec.rate_down, Some(ByteSize::from_bytes(7)));
        let wrong = NetworkChange {
            rules_before: owned(&["allow a.example:http"]),
            ..NetworkChange::default()
        };
        let error = super::planned(&spec(), &live(), &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        let none = NetworkSpec {
            mode: NetworkMode::None,
            ..NetworkSpec::default()
        };
        assert!(super::planned(&none, &[], &NetworkChange::default()).is_err());
    }
}
