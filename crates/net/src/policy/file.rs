//! A policy as a text, for files: one profile and one rule on each line.
//!
//! ```text
//! # Comments begin with a hash sign.
//! profile none
//! allow example.com:443
//! deny *:25
//! ```

use std::str::FromStr;

use super::{Policy, Profile, rule::Rule};
use crate::error::{Error, ErrorKind};

/// Rules that one policy may have.
const MAX_RULES: usize = 4096;

/// What the text of a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyText {
    /// The profile; absent without a line about it.
    pub profile: Option<Profile>,
    /// The rules in their order.
    pub rules: Vec<Rule>,
}

impl FromStr for PolicyText {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut read = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix("profile ") {
                let profile: Profile = name.trim().parse().map_err(|error| at(number, error))?;
                if read.profile.replace(profile).is_some() {
                    let twice = Error::new(ErrorKind::InvalidRule, "A policy has one profile");
                    return Err(at(number, twice));
                }
            } else {
                let rule = line.parse().map_err(|error| at(number, error))?;
                read.rules.push(rule);
            }
            if read.rules.len() > MAX_RULES {
                let many = format!("A policy has at most {MAX_RULES} rules");
                return Err(at(number, Error::new(ErrorKind::InvalidRule, many)));
            }
        }
        Ok(read)
    }
}

impl FromStr for Policy {
    type Err = Error;

    /// Reads a policy. Without a line `profile`, the profile is `public`. The host's addresses are
    /// the caller's to fill in.
    fn from_str(text: &str) -> Result<Self, Error> {
        let PolicyText { profile, rules } = text.parse()?;
        Ok(Self::new(profile.unwrap_or_default(), rules))
    }
}

/// An error that says in which line it is.
fn at(number: u32, error: Error) -> Error {
    let hint = error.hint_text().map(str::to_owned);
    let what = format!("Could not read line {number} of the policy");
    let outer = Error::new(error.kind(), what).because(error);
    match hint {
        Some(hint) => outer.hint(hint),
        None => outer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_line_by_line() {
        let text = "# Ours\n\nprofile none\nallow example.com:443 # the API\n  deny *:25\n";
        let policy: Policy = text.parse().unwrap();
        assert_eq!(policy.profile, Profile::None);
        let rules: Vec<_> = policy.rules.iter().map(Rule::to_string).collect();
        assert_eq!(rules, ["allow example.com:443", "deny *:25"]);
        assert_eq!("".parse::<Policy>().unwrap().profile, Profile::Public);
    }

    #[test]
    fn an_error_says_its_line_and_its_cause() {
        let error = "profile none\n\nallow 10.0.0.1/8\n"
            .parse::<Policy>()
            .unwrap_err();
        let chain = error.chain();
        assert!(
            chain.contains("line 3") && chain.contains("bits past"),
            "{chain}"
        );
        assert!(error.hint_text().is_some());
        assert!("profile a\n".parse::<Policy>().is_err());
        assert!("profile all\nprofile all\n".parse::<Policy>().is_err());
        assert!("allow *\n".repeat(MAX_RULES + 1).parse::<Policy>().is_err());
    }
}
