//! `pip install` and `npm install` in a sandbox, from servers on the host's loopback.
//!
//! Both install a package with 8 MiB of random bytes that needs sixty others. The installers check
//! the digests that the index has, and the installed program prints what it found.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{host::Host, sandbox::Sandbox};

const SERVER: &str = include_str!("index.py");

const PIP: &str = "pip install --quiet --break-system-packages --root-user-action=ignore \
    --disable-pip-version-check --index-url http://host.coffer.internal:PORT/simple/ \
    --trusted-host host.coffer.internal judged; python3 -m judged";

const NPM: &str = "mkdir /tmp/n; cd /tmp/n; npm init -y > /dev/null; \
    npm install --silent --no-audit --no-fund --no-update-notifier \
    --registry http://host.coffer.internal:PORT/ judged; node -e 'require(\"judged\")'";

/// A server with both indexes. It ends when this is dropped.
struct Index {
    server: Child,
    says: Says,
}

/// The line that the server prints.
#[derive(Deserialize)]
struct Says {
    port: u16,
    expected: String,
}

impl Index {
    fn start() -> Result<Self> {
        let mut server = Command::new("/usr/bin/python3")
            .args(["-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Could not start the index")?;
        let mut line = String::new();
        if let Some(output) = server.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let says = serde_json::from_str(&line).context("The index did not start")?;
        Ok(Self { server, says })
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
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
    let index = Index::start()?;
    let port = index.says.port.to_string();
    let sandbox = Sandbox::start(host, &["--allow", &format!("host:{port}/tcp")])?;
    let printed = sandbox.sh(&script.replace("PORT", &port))?;
    ensure!(
        printed == index.says.expected,
        "The installed package printed `{printed}` instead of `{}`",
        index.says.expected
    );
    Ok("61 packages with 8 MiB, each with the digest of the index".to_owned())
}
