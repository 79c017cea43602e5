//! Credentials as Docker keeps them: `config.json` and `docker-credential-*` programs.
//!
//! Invariant: a secret is in no error, no `Debug` output and no argument list.
//! *Source:* docker/cli "config file" reference; docker-credential-helpers README.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cofferdam_base::{env_vars, fs::read_bounded};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    error::{Error, ErrorKind, Result, path_error},
    manifest::{DOCUMENT_BYTES_MAX, shown},
};

/// Longest run of a credential program. Some ask a key ring that asks a person; a minute is long
/// for a person and short for a hang.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer of a credential program, in bytes; tokens of cloud registries have some KiB.
const HELPER_BYTES_MAX: u64 = 256 << 10;
/// Docker Hub's name in references, and as `docker login` writes it.
const HUB: &str = "docker.io";
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// User name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// How to introduce oneself to one registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth 2 refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: HashMap<String, AuthEntry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The credentials for `host`, if there are any.
pub(crate) async fn find(host: &str, config_dir: Option<&Path>) -> Result<Option<Credentials>> {
    let Some(path) = config_path(config_dir) else {
        return Ok(None);
    };
    let text = match read_bounded(&path, DOCUMENT_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(path_error("read", &path)(error)),
    };
    // The parser's own message could quote a secret.
    let config: ConfigFile = serde_json::from_slice(&text).map_err(|error| {
        Error::new(
            ErrorKind::Unauthorized,
            format!("`{}` is broken at line {}", path.display(), error.line()),
        )
        .hint("Correct it, or log in again")
    })?;
    if let Some(helper) = config.cred_helpers.get(host) {
        return ask_helper(helper, host).await;
    }
    if let Some(helper) = config
        .creds_store
        .as_deref()
        .filter(|helper| !helper.is_empty())
        && let Some(found) = ask_helper(helper, host).await?
    {
        return Ok(Some(found));
    }
    match config.auths.iter().find(|(key, _)| names(key, host)) {
        Some((_, entry)) => from_entry(entry, &path),
        None => Ok(None),
    }
}

fn config_path(dir: Option<&Path>) -> Option<PathBuf> {
    let dir = dir
        .map(Path::to_owned)
        .or_else(|| env_vars::var_os(env_vars::DOCKER_CONFIG).map(PathBuf::from))
        .or_else(|| env_vars::absolute_path("HOME").map(|home| home.join(".docker")))?;
    Some(dir.join("config.json"))
}

/// Whether a key of `auths` means `host`: keys are hosts, or URLs of an older time.
fn names(key: &str, host: &str) -> bool {
    if host == HUB && key == HUB_KEY {
        return true;
    }
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let bare = bare.split_once('/').map_or(bare, |(host, _)| host);
    bare == host
}

fn from_entry(entry: &AuthEntry, path: &Path) -> Result<Option<Credentials>> {
    if let Some(token) = entry
        .identitytoken
        .as_ref()
        .filter(|token| !token.is_empty())
    {
        return Ok(Some(Credentials::IdentityToken(token.clone())));
    }
    if let (Some(user), Some(password)) = (&entry.username, &entry.password) {
        return Ok(Some(Credentials::Password {
            user: user.clone(),
            password: password.clone(),
        }));
    }
    let Some(auth) = entry.auth.as_ref().filter(|auth| !auth.is_empty()) else {
        return Ok(None);
    };
    let decoded = STANDARD
        .decode(auth.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => Ok(Some(Credentials::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })),
        None => Err(Error::new(
            ErrorKind::Unauthorized,
            format!(
                "An `auth` entry of `{}` is no base64 of `user:password`",
                path.display()
            ),
        )
        .hint("Log in again")),
    }
}

/// Asks `docker-credential-NAME get`; `None` when it knows none.
async fn ask_helper(name: &str, host: &str) -> Result<Option<Credentials>> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(is_plain) {
        return Err(helper_error(name, "has a name that is none of a program"));
    }
    let server = if host == HUB { HUB_KEY } else { host };
    let run = tokio::time::timeout(HELPER_TIMEOUT, run_helper(name, server)).await;
    let (success, output) = match run {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => return Err(helper_error(name, "could not be run").because(error)),
        Err(_) => return Err(helper_error(name, "did not answer in time")),
    };
    if !success {
        // The protocol has no code for this, only the sentence.
        if String::from_utf8_lossy(&output).contains("credentials not found") {
            return Ok(None);
        }
        return Err(helper_error(name, "failed"));
    }
    let answer: HelperAnswer = serde_json::from_slice(&output)
        .map_err(|_| helper_error(name, "answered with something else than credentials"))?;
    Ok(Some(match answer.user.as_str() {
        TOKEN_USER => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Password {
            user: answer.user,
            password: answer.secret,
        },
    }))
}

/// Runs the program; gives whether it succeeded and its bounded output.
async fn run_helper(name: &str, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that answers without reading is no failure.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(HELPER_BYTES_MAX)
            .read_to_end(&mut output)
            .await?;
    }
    Ok((child.wait().await?.success(), output))
}

fn helper_error(name: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Unauthorized,
        format!(
            "The credential program {} {what}",
            shown(&format!("docker-credential-{name}"))
        ),
    )
    .hint("Check `credsStore` and `credHelpers` in Docker's `config.json`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(host: &str, config: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(find(host, Some(dir.path())))
    }

    #[test]
    fn entries_are_found_by_host_and_by_old_urls() {
        let password = Credentials::Password {
            user: "u".into(),
            password: "p:q".into(),
        };
        for (host, key) in [
            ("r.example", "r.example"),
            ("r.example", "https://r.example/v1/"),
            ("r.example:5000", "r.example:5000"),
            ("docker.io", "https://index.docker.io/v1/"),
        ] {
            let config = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpwOnE="}}}}}}"#);
            assert_eq!(
                found(host, &config).unwrap(),
                Some(password.clone()),
                "{key}"
            );
        }
        assert_eq!(
            found("r.example", r#"{"auths":{"r.example:1":{"auth":"dTpw"}}}"#).unwrap(),
            None
        );
    }

    #[test]
    fn an_identity_token_wins() {
        let config = r#"{"auths":{"r":{"auth":"dTpw","identitytoken":"t"}}}"#;
        assert_eq!(
            found("r", config).unwrap(),
            Some(Credentials::IdentityToken("t".into()))
        );
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_it() {
        for config in [
            r#"{"auths": "secret"#,
            r#"{"auths":{"r":{"auth":"c2VjcmV0"}}}"#,
        ] {
            let error = found("r", config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert!(!error.chain().contains("secret"), "{}", error.chain());
        }
    }

    #[test]
    fn a_helper_with_a_path_in_its_name_is_not_run() {
        let error = found("r", r#"{"credsStore":"../../bin/sh"}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
    }
}
