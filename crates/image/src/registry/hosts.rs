//! Where a registry answers: its own host, and mirrors before it.

use std::net::IpAddr;

use cofferdam_base::env_vars;
use cofferdam_types::Blame;
use reqwest::Url;

use crate::{
    error::{Error, ErrorKind, Result},
    reference::Reference,
};

/// Docker Hub's name in references, and the host that serves its API.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// A host that serves the distribution API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host[:port]/`, or `http` for loopback.
    pub(crate) base: Url,
    /// Whether no scheme was named, and one of this host's ports may speak TLS all the same.
    pub(crate) may_have_tls: bool,
    /// The name that credentials are kept under.
    pub(crate) credential_host: String,
}

/// The endpoints to ask for `reference`, mirrors first.
pub(crate) fn endpoints(reference: &Reference, mirrors: Option<&str>) -> Result<Vec<Endpoint>> {
    let from_env = env_vars::var(env_vars::MIRRORS);
    let mirrors = mirrors.or(from_env.as_deref()).unwrap_or_default();
    let mut endpoints = Vec::new();
    for pair in mirrors
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let Some((registry, mirror)) = pair.split_once('=') else {
            return Err(invalid("A mirror is not of the form `registry=mirror`")
                .hint("Correct `COFFER_MIRRORS`"));
        };
        if registry.trim() == reference.registry() {
            endpoints.push(endpoint(mirror.trim())?);
        }
    }
    let own = reference.registry();
    let mut primary = endpoint(if own == HUB { HUB_HOST } else { own })?;
    own.clone_into(&mut primary.credential_host);
    endpoints.push(primary);
    Ok(endpoints)
}

fn endpoint(host: &str) -> Result<Endpoint> {
    let may_have_tls = !host.contains("://") && is_loopback(host);
    let text = if host.contains("://") {
        host.to_owned()
    } else {
        let scheme = if may_have_tls { "http" } else { "https" };
        format!("{scheme}://{host}")
    };
    let base = Url::parse(&text).map_err(|e| invalid("A registry's address is none").because(e))?;
    let has_more = !matches!(base.path(), "" | "/")
        || base.query().is_some()
        || !base.username().is_empty()
        || base.password().is_some();
    if has_more {
        return Err(
            invalid("A registry's address may have a host and a port only")
                .hint("Keep credentials in Docker's `config.json`"),
        );
    }
    check_scheme(&base)?;
    let credential_host = match (base.host_str(), base.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(invalid("A registry's address has no host")),
    };
    Ok(Endpoint {
        base,
        may_have_tls,
        credential_host,
    })
}

/// Refuses everything but HTTPS, and HTTP to loopback.
pub(crate) fn check_scheme(url: &Url) -> Result<()> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback_url(url) => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "`{}` would be asked without encryption",
                url.host_str().unwrap_or_default()
            ),
        )
        .hint("Plain HTTP is for registries on this host only; give the registry a certificate")),
    }
}

/// Whether the URL's host is this machine.
pub(crate) fn is_loopback_url(url: &Url) -> bool {
    url.host_str().is_some_and(is_loopback)
}

/// Whether `host`, with or without a port, is this machine. A name that merely resolves to
/// loopback does not count: its owner can change that.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidReference, what)
}

/// Whether another endpoint may do better.
pub(super) fn is_of_the_endpoint(error: &Error) -> bool {
    error.blame() == Blame::Remote
        || matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::Unauthorized
                | ErrorKind::PlatformMismatch
                | ErrorKind::Unsupported
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(reference: &str, mirrors: &str) -> Vec<String> {
        let reference = reference.parse().unwrap();
        endpoints(&reference, Some(mirrors))
            .unwrap()
            .iter()
            .map(|e| e.base.to_string())
            .collect()
    }

    #[test]
    fn only_loopback_is_asked_without_encryption() {
        for (reference, base) in [
            ("debian", "https://registry-1.docker.io/"),
            ("quay.io/x", "https://quay.io/"),
            ("localhost:5000/x", "http://localhost:5000/"),
            ("127.8.9.1:5000/x", "http://127.8.9.1:5000/"),
            ("[::1]:5000/x", "http://[::1]:5000/"),
            ("localhost.evil.org/x", "https://localhost.evil.org/"),
            ("10.0.0.1:5000/x", "https://10.0.0.1:5000/"),
        ] {
            assert_eq!(bases(reference, ""), [base], "{reference}");
        }
    }

    #[test]
    fn mirrors_come_first_and_for_their_registry_only() {
        let mirrors = "docker.io=mirror.example, quay.io=other.example";
        assert_eq!(
            bases("debian", mirrors),
            ["https://mirror.example/", "https://registry-1.docker.io/"]
        );
    }

    #[test]
    fn a_mirror_without_encryption_or_with_a_password_is_refused() {
        let reference = "debian".parse().unwrap();
        for mirror in [
            "docker.io=http://m.example",
            "docker.io=https://u:p@m.example",
            "docker.io",
        ] {
            assert!(endpoints(&reference, Some(mirror)).is_err(), "{mirror}");
        }
    }
}
