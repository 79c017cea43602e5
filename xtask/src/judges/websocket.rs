//! WebSockets, in both directions: the host is the client of a sandbox, and then its server.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{
    host::Host,
    sandbox::{Sandbox, output},
    server::{PYTHON, Server},
};

/// The echo server and its client, of the library `websockets`.
const SCRIPT: &str = include_str!("websocket.py");

/// Where the script is in a sandbox.
const PATH: &str = "/srv/websocket.py";

/// What the client prints: messages and the code of the close.
const EXPECTED: &str = "1006 messages, 30 connections at once, close 4000";

/// # Errors
/// When a message is lost or changed, or a connection does not end as it should.
pub(super) fn both_ways(host: &Host) -> Result<String> {
    let inside = Sandbox::start(host, &["-p", "9000"])?;
    inside.write(PATH, SCRIPT.as_bytes())?;
    // Its input never ends, and so the server goes on.
    inside.send(&format!(
        "tail -f /dev/null | python3 {PATH} serve 0.0.0.0 9000 > /tmp/port"
    ))?;
    inside.sh("until [ -s /tmp/port ]; do sleep 0.1; done")?;
    let uri = format!("ws://127.0.0.1:{}/", inside.port("9000")?);
    let mut client = Command::new("timeout");
    client.args(["--kill-after=5", "300", PYTHON, "-c", SCRIPT, "talk", &uri]);
    let printed = output(&mut client, &[]).context("The client on the host")?;
    ensure!(
        printed == EXPECTED,
        "The client on the host printed: {printed}"
    );
    let outside = Server::start(SCRIPT, &["serve", "127.0.0.1", "0"])?;
    let port = outside.line.trim();
    let sandbox = Sandbox::start(host, &["--allow", &format!("host:{port}/tcp")])?;
    sandbox.write(PATH, SCRIPT.as_bytes())?;
    let uri = format!("ws://host.coffer.internal:{port}/");
    let printed = sandbox.sh(&format!("python3 {PATH} talk {uri}"))?;
    ensure!(
        printed == EXPECTED,
        "The client in the sandbox printed: {printed}"
    );
    Ok(format!("both directions, each: {EXPECTED}"))
}
