//! `pip install` and `npm install` in a sandbox, from servers on the host's loopback.
//!
//! Both install a package with 8 MiB of random bytes that needs sixty others. The installers check
//! the digests that the index has, and the installed program prints what it found.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{host::Host, sandbox::Sandbox, server::Server};

/// Serves both indexes.
const SERVER: &str = include_str!("index.py");

const PIP: &str = "pip install --quiet --break-system-packages --root-user-action=ignore \
    --disable-pip-version-check --index-url http://host.coffer.internal:PORT/simple/ \
    --trusted-host host.coffer.internal judged; python3 -m judged";

const NPM: &str = "mkdir /tmp/n; cd /tmp/n; npm init -y > /dev/null; \
    npm install --silent --no-audit --no-fund --no-update-notifier \
    --registry http://host.coffer.internal:PORT/ judged; node -e 'require(\"judged\")'";

/// The line that the server prints.
#[derive(Deserialize)]
struct Says {
    port: u16,
    expected: String,
}

/// # Errors
/// When the installation fails or the package is not as it was made.
pub(super) fn pip(host: &Host) -> Result<String> {
    install(host, PIP)
}

/// # Errors
/// As [`pip`].
pub(super) fn npm(host: &Host) -> Result<String> {
    install(host, NPM)
}

fn install(host: &Host, script: &str) -> Result<String> {
    let server = Server::start(SERVER, &[])?;
    let says: Says = serde_json::from_str(&server.line).context("The index printed no JSON")?;
    let port = says.port.to_string();
    let sandbox = Sandbox::start(host, &["--allow", &format!("host:{port}/tcp")])?;
    let printed = sandbox.sh(&script.replace("PORT", &port))?;
    ensure!(
        printed == says.expected,
        "The installed package printed `{printed}` instead of `{}`",
        says.expected
    );
    Ok("61 packages with 8 MiB, each with the digest of the index".to_owned())
}
