//! `docker-credential-*` programs, which keep credentials in key rings and clouds.
//!
//! *Source:* docker-credential-helpers README.

use std::{io, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::credentials::Credentials;
use crate::{go_json, manifest::shown};

/// Longest run of a credential program. Some ask a key ring that asks a person; a minute is long
/// for a person and short for a hang.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer of a credential program, in bytes; tokens of cloud registries have some KiB.
const BYTES_MAX: u64 = 256 << 10;
/// User name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-NAME get`; `None` when it knows none.
///
/// # Errors
/// A sentence for people when it could not be run, failed, or gave no answer.
pub(super) async fn ask(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    let program = format!("docker-credential-{name}");
    let failed = |what: &str| format!("The credential program {} {what}", shown(&program));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(is_plain) {
        return Err(failed("has a name that cannot be the name of a program"));
    }
    let (success, output) = match tokio::time::timeout(TIMEOUT, run(&program, server)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(failed("is not installed"));
        }
        Ok(Err(error)) => return Err(failed(&format!("could not be run: {error}"))),
        Err(_) => return Err(failed("did not answer in time")),
    };
    if !success {
        let said = String::from_utf8_lossy(&output);
        // The protocol has no code for this, only the sentence.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(match said.trim() {
            // An object may hold a secret; a sentence is a reason.
            "" => failed("failed"),
            said if said.starts_with(['{', '[', '"']) => failed("failed"),
            said => failed(&format!("failed: {}", shown(said))),
        });
    }
    let answer: Answer = go_json::from_slice(&output)
        .map_err(|_| failed("answered with something else than credentials"))?;
    Ok(match answer {
        // What programs of clouds say when nobody is logged in.
        Answer { secret, .. } if secret.is_empty() => None,
        Answer { username, secret } if username == TOKEN_USER => {
            Some(Credentials::IdentityToken(secret))
        }
        Answer { username, secret } => Some(Credentials::Password {
            user: username,
            password: secret,
        }),
    })
}

/// Runs the program; gives whether it succeeded and its bounded output.
async fn run(program: &str, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(program)
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
        stdout.take(BYTES_MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
