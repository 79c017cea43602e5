//! A sandbox of one judge.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::host::{Host, IMAGE};
use crate::process;

/// A running sandbox, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Sandbox<'a> {
    host: &'a Host,
    id: String,
}

impl<'a> Sandbox<'a> {
    /// Starts one with these flags of `run`.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(host: &'a Host, flags: &[&str]) -> Result<Self> {
        let args = [
            &["run", "-d", "-m", "1g"],
            flags,
            &[IMAGE, "sleep", "1000000"],
        ];
        let id = process::capture(&mut host.coffer(&args.concat())?)?;
        Ok(Self { host, id })
    }

    /// Runs a shell script in it, and returns its trimmed output.
    ///
    /// # Errors
    /// When the script fails: with the end of its standard error.
    pub(super) fn sh(&self, script: &str) -> Result<String> {
        let args = ["exec", &self.id, "sh", "-ec", script];
        output(&mut self.host.coffer(&args)?, &[])
    }

    /// Starts a shell script in it that goes on.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn send(&self, script: &str) -> Result<()> {
        let args = ["exec", "-d", &self.id, "sh", "-c", script];
        output(&mut self.host.coffer(&args)?, &[]).map(drop)
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let script = format!("mkdir -p \"$(dirname {path})\"; cat > {path}");
        let args = ["exec", "-i", &self.id, "sh", "-ec", &script];
        output(&mut self.host.coffer(&args)?, content).map(drop)
    }

    /// The port of the host's loopback that leads to `port` of the sandbox.
    ///
    /// # Errors
    /// When the port is not published.
    pub(super) fn port(&self, port: &str) -> Result<u16> {
        let place = process::capture(&mut self.host.coffer(&["port", &self.id, port])?)?;
        let number = place
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        number.with_context(|| format!("`coffer port` printed `{place}`"))
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        if let Ok(mut remove) = self.host.coffer(&["rm", "-f", &self.id]) {
            let _ = process::capture(&mut remove);
        }
    }
}

/// The trimmed output of a command with this standard input.
///
/// # Errors
/// When it does not start or fails: with the end of its standard error.
pub(super) fn output(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("Could not start a command")?;
    let mut stdin = child.stdin.take();
    let input = input.to_vec();
    // Beside the reading: the command may write before it has read everything, and may end early.
    let writer = std::thread::spawn(move || {
        let _ = stdin.as_mut().map(|stdin| stdin.write_all(&input));
    });
    let output = child.wait_with_output().context("Could not wait")?;
    let _ = writer.join();
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {stdout} {}", output.status, end_of(stderr.trim()));
    }
    Ok(stdout)
}

/// At most the last 2,000 characters.
fn end_of(text: &str) -> &str {
    let start = text.char_indices().rev().nth(1_999);
    text.get(start.map_or(0, |(at, _)| at)..)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_its_input_and_a_failure_has_both_outputs() {
        assert_eq!(
            output(&mut Command::new("cat"), b" word\n").unwrap(),
            "word"
        );
        let script = "echo out; echo err >&2; exit 3";
        let error = output(Command::new("sh").args(["-c", script]), &[]).unwrap_err();
        assert_eq!(error.to_string(), "exit status: 3: out err");
        assert_eq!(end_of("short"), "short");
        assert_eq!(end_of(&"é".repeat(3_000)).chars().count(), 2_000);
    }
}
