//! Secrets that are put into requests at the host, so that no guest ever holds them.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Most bytes of a secret's value.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// Longest name of a secret.
const MAX_NAME_BYTES: usize = 64;

/// A secret as the record of a sandbox has it: without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// The environment variable of the guest that has the placeholder.
    pub name: String,
    /// Where the value comes from at each start.
    pub source: SecretSource,
    /// Hosts that may have it: a name, or `*.` and a suffix.
    pub hosts: Vec<String>,
    /// Whether it is also put into the query of a request's target.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub query: bool,
    /// Whether it is also put into the body of a request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub body: bool,
    /// The harmless text that the guest has in its place. Made with the sandbox.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub placeholder: String,
    /// The value, of [`SecretSource::Given`] alone, on its way to the start. It is in no record.
    #[serde(skip)]
    pub value: Option<SecretValue>,
}

/// Where the value of a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecretSource {
    /// The environment variable with the name of the secret, of the process that starts the sandbox.
    Environment,
    /// A file that the process that starts the sandbox reads. A line's end at its end is left out.
    File(String),
    /// The value is given with each start, since it is kept nowhere.
    Given,
}

/// The value of a secret. It is overwritten when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretValue(String);

impl SecretValue {
    /// Checks a value: 1 to 16384 printable ASCII characters, as a header can carry them.
    ///
    /// # Errors
    /// Without the value.
    pub fn new(mut text: String) -> Result<Self, ParseSecretError> {
        let fits = (1..=MAX_VALUE_BYTES).contains(&text.len());
        if !fits || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            text.zeroize();
            return Err(ParseSecretError(format!(
                "The value of a secret is not 1 to {MAX_VALUE_BYTES} printable ASCII characters"
            )));
        }
        Ok(Self(text))
    }

    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// A value and the name of its secret, for a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSecret {
    /// The secret's name.
    pub name: String,
    /// Its value.
    pub value: SecretValue,
}

/// Text that is no secret. It never has a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSecretError(String);

impl fmt::Display for ParseSecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseSecretError {}

impl SecretSpec {
    /// Reads `NAME[=VALUE|=@FILE]:HOST[,HOST…][,query][,body]`. The last `:` begins the hosts, so a
    /// value or file may have others. A host has a dot, which tells it from the two options.
    ///
    /// # Errors
    /// With the part that cannot be read, and never with a value.
    pub fn parse(text: &str) -> Result<Self, ParseSecretError> {
        let head = text.split(['=', ':']).next().unwrap_or_default();
        let error = |why: &str| ParseSecretError(format!("Secret `{head}`: {why}"));
        let (rest, hosts) = text
            .rsplit_once(':')
            .ok_or_else(|| error("its hosts are missing"))?;
        let (name, value) = match rest.split_once('=') {
            None => (rest, None),
            Some((name, value)) => (name, Some(value)),
        };
        let (source, value) = match value {
            None => (SecretSource::Environment, None),
            Some(value) => match value.strip_prefix('@') {
                Some("") => return Err(error("the name of its file is empty")),
                Some(file) => (SecretSource::File(file.to_owned()), None),
                None => {
                    let value = SecretValue::new(value.to_owned());
                    let value = value.map_err(|why| error(&why.to_string()))?;
                    (SecretSource::Given, Some(value))
                }
            },
        };
        let mut spec = Self {
            name: name.to_owned(),
            source,
            hosts: Vec::new(),
            query: false,
            body: false,
            placeholder: String::new(),
            value,
        };
        for word in hosts.split(',') {
            match word {
                "query" => spec.query = true,
                "body" => spec.body = true,
                host => spec.hosts.push(host.to_ascii_lowercase()),
            }
        }
        let checked = spec.check();
        // The words behind the last `:` may be the end of a value whose hosts were forgotten.
        if checked.is_err() && spec.source == SecretSource::Given {
            return Err(error("the hosts behind its last `:` cannot be read"));
        }
        checked?;
        Ok(spec)
    }

    /// Checks the name and the hosts.
    ///
    /// # Errors
    /// With the part that is wrong.
    pub fn check(&self) -> Result<(), ParseSecretError> {
        let name = &self.name;
        let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_name = name.starts_with(starts)
            && name.len() <= MAX_NAME_BYTES
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(ParseSecretError(format!(
                "`{}` is no name of an environment variable",
                name.escape_debug()
            )));
        }
        if self.hosts.is_empty() {
            return Err(ParseSecretError(format!("Secret `{name}`: it has no host")));
        }
        match self.hosts.iter().find(|host| !is_host(host)) {
            None => Ok(()),
            Some(bad) => Err(ParseSecretError(format!(
                "Secret `{name}`: `{}` is neither a host name with a dot nor `*.` and one",
                bad.escape_debug()
            ))),
        }
    }

    /// Whether `text` is a host name with a dot, or `*.` and one, in lower case.
    #[must_use]
    pub fn is_host(text: &str) -> bool {
        is_host(text)
    }

    /// Whether the host `name`, in lower case, may have the value.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| host_matches(host, name))
    }
}

/// Whether `name`, in lower case, is `host` or below the suffix of `host`.
#[must_use]
pub fn host_matches(host: &str, name: &str) -> bool {
    match host.strip_prefix('*') {
        // The dot stays, so that `*.a.org` is not `ba.org`.
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => host == name,
    }
}

/// Whether `text` is a host name with a dot, or `*.` and one. An address is none: no certificate
/// of a public authority has to say one.
fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        (1..=63).contains(&label.len()) && label.chars().all(is_part)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.contains('.')
        && name.len() <= 253
        && name.split('.').all(is_label)
        && !last.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_the_environment_a_file_or_the_text() {
        let spec = SecretSpec::parse("TOKEN:api.example.com").unwrap();
        assert_eq!(spec.source, SecretSource::Environment);
        assert_eq!(
            (spec.value, spec.hosts),
            (None, vec!["api.example.com".to_owned()])
        );
        let spec = SecretSpec::parse("T=@/a:b/c:a.org,*.B.org,query,body").unwrap();
        assert_eq!(spec.source, SecretSource::File("/a:b/c".to_owned()));
        assert_eq!(spec.hosts, ["a.org", "*.b.org"]);
        assert!(spec.query && spec.body);
        let spec = SecretSpec::parse("T=user:pass=word,x:a.org").unwrap();
        assert_eq!(spec.source, SecretSource::Given);
        assert_eq!(spec.value.unwrap().expose(), "user:pass=word,x");
    }

    #[test]
    fn an_error_has_no_value_in_it() {
        for text in [
            "T=hunter2secret",
            "T=hunter2secret:",
            "T=hunter2secret:localhost",
            "T=hunter2secret:10.0.0.1",
            "T=hunter2secret\n:a.org",
            "1T=hunter2secret:a.org",
            "T=user:hunter2secret",
            "T=user:hunter2secret,a.org",
        ] {
            let error = SecretSpec::parse(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let spec = SecretSpec::parse("T=hunter2secret:a.org").unwrap();
        assert!(!format!("{spec:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for text in [
            "",
            "T",
            "T:",
            ":a.org",
            "T:query",
            "T:a b.org",
            "T=@:a.org",
            "T:*",
            "T:*.org.",
            "T:a..org",
            "T-X:a.org",
        ] {
            assert!(SecretSpec::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_suffix_is_every_name_below_it_and_not_itself() {
        let spec = SecretSpec::parse("T:*.a.org,b.org").unwrap();
        for (name, allowed) in [
            ("x.a.org", true),
            ("x.y.a.org", true),
            ("a.org", false),
            ("xa.org", false),
            ("b.org", true),
            ("x.b.org", false),
        ] {
            assert_eq!(spec.allows(name), allowed, "{name}");
        }
    }
}
