//! Secrets: their placeholders at the creation, their values at each start, and their proxy.
//!
//! A record has names, hosts and placeholders. A value goes from the process that starts the
//! sandbox, over the socket of the start, into the memory of the supervisor, and nowhere else.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::Read,
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use cofferdam_net::{Event, Intercept, Intercepted, Reporter, Secrets};
use cofferdam_secrets::{Flow, Proxy, Report, Rule};
use cofferdam_types::{
    NamedSecret, NetworkMode, NetworkSpec, SandboxId, SecretSource, SecretSpec, SecretValue,
};

use super::rights::confine_proxy;
use crate::base::{
    environment::is_kept,
    error::{Error, ErrorKind, Result, lift},
    random,
};

/// Most secrets of one sandbox.
const MAX_SECRETS: usize = 64;

/// Most bytes of a file with a value.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Values that were given with a creation, for the starts that this process does.
static GIVEN: LazyLock<Mutex<HashMap<SandboxId, Vec<NamedSecret>>>> = LazyLock::new(Mutex::default);

/// Refuses secrets that cannot work.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`], without a value.
pub(super) fn check(spec: &NetworkSpec) -> Result<()> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
    let secrets = &spec.secrets;
    if secrets.len() > MAX_SECRETS {
        return Err(invalid(format!(
            "A sandbox has at most {MAX_SECRETS} secrets"
        )));
    }
    if spec.mode == NetworkMode::None && !secrets.is_empty() {
        return Err(invalid("A secret needs a network".to_owned())
            .hint("Use the default network, or no secret"));
    }
    if let Some(bad) = spec
        .secret_bypass
        .iter()
        .find(|host| !SecretSpec::is_host(host))
    {
        return Err(invalid(format!("`{}` is no host name", bad.escape_debug())));
    }
    for (index, secret) in secrets.iter().enumerate() {
        secret.check().map_err(|error| invalid(error.to_string()))?;
        if is_kept(OsStr::new(&secret.name)) {
            let what = format!("A secret cannot be in the variable `{}`", secret.name);
            return Err(invalid(what).hint("Cofferdam or the system reads it: choose another name"));
        }
        if secrets[..index]
            .iter()
            .any(|other| other.name == secret.name)
        {
            return Err(invalid(format!("There are two secrets `{}`", secret.name)));
        }
    }
    Ok(())
}

/// Makes placeholders for the secrets of a new sandbox and takes their values out of the spec.
///
/// # Errors
/// Without random numbers.
pub(crate) fn take_values(id: SandboxId, spec: &mut NetworkSpec) -> Result<()> {
    let mut given = Vec::new();
    for secret in &mut spec.secrets {
        let digits: String = random::bytes::<16>()?
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        secret.placeholder = format!("coffer-secret-{}-{digits}", secret.name);
        if let Some(value) = secret.value.take() {
            let name = secret.name.clone();
            given.push(NamedSecret { name, value });
        }
    }
    if !given.is_empty() {
        GIVEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, given);
    }
    Ok(())
}

/// Keeps values for the starts, forks and restores that this process does of a sandbox. They come
/// before those of the environment, of files and of an earlier call.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] for a value of no secret of the sandbox; then none is kept.
pub(crate) fn give_values(
    id: SandboxId,
    spec: &NetworkSpec,
    values: Vec<NamedSecret>,
) -> Result<()> {
    let is_secret = |name: &str| spec.secrets.iter().any(|secret| secret.name == name);
    if let Some(value) = values.iter().find(|value| !is_secret(&value.name)) {
        let name = value.name.escape_debug();
        let what = format!("The sandbox has no secret `{name}`");
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("A secret and its hosts are named when the sandbox is made"));
    }
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = given.entry(id).or_default();
    known.retain(|old| !values.iter().any(|value| value.name == old.name));
    known.extend(values);
    Ok(())
}

/// The value of the secret `name` from its source, as a start reads it.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] for a value that is not there or that no header can carry, and for
/// [`SecretSource::Given`].
pub fn read_secret(name: &str, source: &SecretSource) -> Result<SecretValue> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
    let text = match source {
        SecretSource::Environment => std::env::var(name).map_err(|_| {
            invalid(format!(
                "The environment has no variable `{name}` for the secret"
            ))
            .hint("Set it, and start the sandbox again")
        })?,
        SecretSource::File(file) => read(file).map_err(|error| {
            invalid(format!("Could not read `{file}` for the secret `{name}`")).because(error)
        })?,
        _ => {
            let what = format!("The value of the secret `{name}` was given once and is not stored");
            return Err(invalid(what).hint(format!(
                "Give it again with `coffer start --secret {name}=VALUE`, or `--secret {name}` for \
                 the value of the variable"
            )));
        }
    };
    SecretValue::new(text).map_err(|error| invalid(format!("Secret `{name}`")).because(error))
}

/// The values for a start by this process.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] for a value that is not there, with its secret.
pub(crate) fn values(
    id: SandboxId,
    parent: Option<SandboxId>,
    spec: &NetworkSpec,
) -> Result<Vec<NamedSecret>> {
    let given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // A fork may have those that its parent was given.
    let of = |id: SandboxId| given.get(&id).into_iter().flatten();
    let known: Vec<&NamedSecret> = of(id).chain(parent.into_iter().flat_map(of)).collect();
    let value = |secret: &SecretSpec| {
        if let Some(known) = known.iter().find(|known| known.name == secret.name) {
            return Ok((*known).clone());
        }
        let value = read_secret(&secret.name, &secret.source)?;
        let name = secret.name.clone();
        Ok(NamedSecret { name, value })
    };
    spec.secrets.iter().map(value).collect()
}

/// A file's content without the line's end at its end.
fn read(file: &str) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(file)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    let length = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(length);
    Ok(text)
}

/// The proxy of a sandbox with secrets, and the certificate that its guest has to trust.
///
/// # Errors
/// A value that is missing; those of the host.
pub(super) fn start(
    spec: &NetworkSpec,
    values: &[NamedSecret],
    reporter: Reporter,
) -> Result<Option<(Secrets, String)>> {
    if spec.secrets.is_empty() {
        return Ok(None);
    }
    let rule = |spec: &SecretSpec| {
        let value = values.iter().find(|value| value.name == spec.name);
        let value = value.ok_or_else(|| {
            let what = format!("The start has no value for the secret `{}`", spec.name);
            Error::new(ErrorKind::Bug, what)
        })?;
        Ok(Rule {
            spec: spec.clone(),
            value: value.value.clone(),
        })
    };
    let rules = spec.secrets.iter().map(rule).collect::<Result<Vec<_>>>()?;
    let bypass = spec.secret_bypass.clone();
    let proxy = Proxy::start(rules, bypass, None, confine_proxy, move |report| {
        reporter.send(event(report));
    });
    let proxy = lift(proxy)?;
    let certificate = proxy.certificate_pem();
    let secrets = Secrets {
        placeholders: spec
            .secrets
            .iter()
            .map(|secret| (secret.name.clone(), secret.placeholder.clone()))
            .collect(),
        proxy: Arc::new(Interceptor(proxy)),
    };
    Ok(Some((secrets, certificate)))
}

fn event(report: Report) -> Event {
    match report {
        Report::Misplaced { name, host } => Event::SecretMisplaced {
            name,
            destination: host,
        },
        other => Event::Secrets(other.to_string()),
    }
}

/// Hands flows of the stack to the proxy.
#[derive(Debug)]
struct Interceptor(Proxy);

impl Intercept for Interceptor {
    fn wants(&self, host: &str, port: u16) -> bool {
        self.0.wants(host, port)
    }

    fn take(&self, flow: Intercepted) {
        self.0.take(Flow {
            guest: UnixStream::from(flow.guest),
            server: TcpStream::from(flow.server),
            host: flow.host,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(secrets: &[&str]) -> NetworkSpec {
        let secret = |text: &&str| SecretSpec {
            value: None,
            ..SecretSpec::parse(text).unwrap()
        };
        NetworkSpec {
            secrets: secrets.iter().map(secret).collect(),
            ..NetworkSpec::default()
        }
    }

    fn named(name: &str, value: &str) -> NamedSecret {
        NamedSecret {
            name: name.to_owned(),
            value: SecretValue::new(value.to_owned()).unwrap(),
        }
    }

    #[test]
    fn values_that_are_given_again_are_those_of_the_next_starts() {
        let id = SandboxId::from_random([0x71; 32]);
        let spec = with(&["A=first:a.org", "B=@/no/such/file:b.org"]);
        let error = values(id, None, &spec).unwrap_err();
        assert!(error.to_string().contains("`A`"), "{error}");
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("coffer start --secret A=VALUE"), "{hint}");

        give_values(id, &spec, vec![named("A", "one"), named("B", "two")]).unwrap();
        // Both are there, also that of a file which is not.
        let both = values(id, None, &spec).unwrap();
        assert_eq!(both, [named("A", "one"), named("B", "two")]);
        give_values(id, &spec, vec![named("A", "three")]).unwrap();
        let changed = values(id, None, &spec).unwrap();
        assert_eq!(changed, [named("A", "three"), named("B", "two")]);
        // A fork gets them by its parent.
        let fork = SandboxId::from_random([0x72; 32]);
        assert_eq!(values(fork, Some(id), &spec).unwrap(), changed);
    }

    #[test]
    fn a_value_of_no_secret_is_refused_without_it() {
        let id = SandboxId::from_random([0x73; 32]);
        let spec = with(&["A=first:a.org"]);
        let given = vec![named("A", "the-value"), named("C", "the-value")];
        let error = give_values(id, &spec, given).unwrap_err();
        assert!(error.to_string().contains("`C`"), "{error}");
        assert!(!error.chain().contains("the-value"), "{error}");
        assert!(values(id, None, &spec).is_err());
    }
}
