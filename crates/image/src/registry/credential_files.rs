//! Credentials as Docker, podman and skopeo keep them: `config.json`, `auth.json` and
//! `docker-credential-*` programs.
//!
//! What is broken is passed over with a warning: most images need no credentials, and where they
//! do, the registry's refusal comes with the warnings.
//! Invariant: a secret is in no warning, no error, no `Debug` output and no argument list.
//! *Source:* docker/cli "config file" reference; containers-auth.json(5).

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use cofferdam_base::{env_vars, fs::read_bounded};
use serde::Deserialize;

use super::{credential_helper, credentials::Credentials};
use crate::{
    go_json::{self, Lenient},
    manifest::DOCUMENT_BYTES_MAX,
};

/// Docker Hub's name in references, and as `docker login` writes it.
const HUB: &str = "docker.io";
pub(super) const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other names of Docker Hub in such files.
const HUB_HOSTS: [&str; 3] = ["index.docker.io", "registry-1.docker.io", HUB];

/// Some tools leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the files and programs gave.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) credentials: Option<Credentials>,
    /// What could not be read or run, in sentences for people.
    pub(crate) warnings: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: Lenient<BTreeMap<String, Lenient<AuthEntry>>>,
    creds_store: Lenient<String>,
    cred_helpers: Lenient<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The credentials for `repository` at `host`, if there are any. With `dir`, only that
/// directory's `config.json` is read.
pub(crate) async fn find(host: &str, repository: &str, dir: Option<&Path>) -> Found {
    let mut found = Found::default();
    for path in files(dir) {
        let Some(config) = read(&path, &mut found.warnings) else {
            continue;
        };
        found.credentials = search(&config, &path, host, repository, &mut found.warnings).await;
        if found.credentials.is_some() {
            break;
        }
    }
    found
}

/// The files to look into, in this order.
fn files(dir: Option<&Path>) -> Vec<PathBuf> {
    if let Some(dir) = dir {
        return vec![dir.join("config.json")];
    }
    let home = env_vars::absolute_path("HOME");
    let below = |dir: Option<PathBuf>, rest: &str| dir.map(|dir| dir.join(rest));
    let docker = env_vars::var_os(env_vars::DOCKER_CONFIG)
        .map(PathBuf::from)
        .or_else(|| below(home.clone(), ".docker"));
    let config = env_vars::absolute_path("XDG_CONFIG_HOME").or_else(|| below(home, ".config"));
    [
        env_vars::var_os(env_vars::REGISTRY_AUTH_FILE).map(PathBuf::from),
        below(docker, "config.json"),
        below(
            env_vars::absolute_path("XDG_RUNTIME_DIR"),
            "containers/auth.json",
        ),
        Some(
            format!(
                "/run/containers/{}/auth.json",
                rustix::process::getuid().as_raw()
            )
            .into(),
        ),
        below(config, "containers/auth.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &Path, warnings: &mut Vec<String>) -> Option<ConfigFile> {
    let text = match read_bounded(path, DOCUMENT_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warnings.push(format!("`{}` cannot be read: {error}", path.display()));
            return None;
        }
    };
    if text.trim_ascii().is_empty() {
        warnings.push(format!("`{}` is empty", path.display()));
        return None;
    }
    let config = go_json::from_slice(&text);
    // The parser's own message could quote a secret.
    if let Err(error) = &config {
        let (path, line) = (path.display(), error.line());
        warnings.push(format!(
            "`{path}` is broken at line {line} and was not used"
        ));
    }
    config.ok()
}

async fn search(
    config: &ConfigFile,
    path: &Path,
    host: &str,
    repository: &str,
    warnings: &mut Vec<String>,
) -> Option<Credentials> {
    let helpers = config.cred_helpers.0.as_ref();
    let of_host = helpers.and_then(|helpers| {
        let is_it = |(key, _): &(&String, &String)| api_host(key) == canonical(host);
        helpers
            .get(host)
            .or_else(|| Some(helpers.iter().find(is_it)?.1))
    });
    let of_all = config.creds_store.0.as_ref();
    let mut asked: Vec<&String> = of_host.into_iter().chain(of_all).collect();
    asked.retain(|helper| !helper.is_empty());
    asked.dedup();
    for helper in asked {
        let server = if host == HUB { HUB_KEY } else { host };
        match credential_helper::ask(helper, server).await {
            Ok(Some(found)) => return Some(found),
            Ok(None) => {}
            Err(warning) => warnings.push(warning),
        }
    }
    let auths = config.auths.0.as_ref()?;
    for entry in entries_for(auths, host, repository) {
        match entry.0.as_ref().map(from_entry) {
            Some(Ok(None)) => {}
            Some(Ok(Some(found))) => return Some(found),
            Some(Err(())) | None => warnings.push(format!(
                "The entry for `{host}` in `{}` is broken and was not used",
                path.display()
            )),
        }
    }
    None
}

/// The entries that are meant for a repository, the most exact first: its own path, those above
/// it, the host, and last what URLs of an older time name.
fn entries_for<'a>(
    auths: &'a BTreeMap<String, Lenient<AuthEntry>>,
    host: &str,
    repository: &str,
) -> Vec<&'a Lenient<AuthEntry>> {
    let hosts: Vec<&str> = if host == HUB {
        HUB_HOSTS.into_iter().rev().collect()
    } else {
        vec![host]
    };
    let mut wanted = Vec::new();
    let mut path = Some(repository);
    while let Some(below) = path {
        wanted.extend(hosts.iter().map(|host| format!("{host}/{below}")));
        path = below.rsplit_once('/').map(|(above, _)| above);
    }
    if host == HUB {
        wanted.push(HUB_KEY.to_owned());
    }
    wanted.extend(hosts.iter().map(|host| (*host).to_owned()));
    let exact = wanted.iter().filter_map(|key| auths.get(key));
    let older = auths
        .iter()
        .filter(|(key, _)| !wanted.contains(key) && api_host(key) == canonical(host))
        // HTTPS before HTTP.
        .rev()
        .map(|(_, entry)| entry);
    exact.chain(older).collect()
}

fn canonical(host: &str) -> String {
    if HUB_HOSTS.contains(&host) {
        return HUB.to_owned();
    }
    host.to_ascii_lowercase()
}

/// The host that a key means as a whole: it is one, a URL, or one with the path of the API. Empty
/// for a key with the path of a repository.
fn api_host(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare
        .unwrap_or(key)
        .split_once('/')
        .unwrap_or_else(|| (bare.unwrap_or(key), ""));
    let is_whole = bare.is_some() || matches!(path.trim_end_matches('/'), "" | "v1" | "v2");
    if is_whole {
        canonical(host)
    } else {
        String::new()
    }
}

/// What an entry holds; `Err` when it cannot be read.
fn from_entry(entry: &AuthEntry) -> Result<Option<Credentials>, ()> {
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Credentials::IdentityToken(
            entry.identitytoken.clone(),
        )));
    }
    let password = |user: &str, password: &str| Credentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    let auth = entry.auth.trim();
    if auth.is_empty() {
        let found = !entry.username.is_empty();
        return Ok(found.then(|| password(&entry.username, &entry.password)));
    }
    let decoded = BASE64.decode(auth).map_err(drop)?;
    let text = String::from_utf8(decoded).map_err(drop)?;
    let (user, secret) = text.split_once(':').ok_or(())?;
    Ok(Some(password(user, secret.trim_end_matches('\0'))))
}

#[cfg(test)]
#[path = "credential_files_tests.rs"]
mod tests;
