//! Policies of networks as texts.

use std::str::FromStr;

use cofferdam_runtime::{Error, Result};

/// The text of a policy file: one rule on each line, `profile NAME` on one of them at most, and
/// comments after `#`. docs/network.md has the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyText {
    /// `public`, `none` or `all`; absent when the text names none.
    pub profile: Option<String>,
    /// Rules such as `allow example.com:443`, for [`crate::NetworkSpec::rules`].
    pub rules: Vec<String>,
}

impl FromStr for PolicyText {
    type Err = Error;

    /// Reads and checks a policy. Fails with [`crate::ErrorKind::InvalidSpec`]; the causes of the
    /// error have the line and what is wrong there.
    fn from_str(text: &str) -> Result<Self> {
        let (profile, rules) = cofferdam_runtime::read_policy(text)?;
        Ok(Self { profile, rules })
    }
}
