//! A server in Python on the host's loopback.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Debian's, which has Debian's packages.
pub(super) const PYTHON: &str = "/usr/bin/python3";

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// The first line that it printed.
    pub(super) line: String,
}

impl Server {
    /// Starts a script that prints a line when it listens, and ends with its input.
    ///
    /// # Errors
    /// When it does not start, or ends before it has printed a line.
    pub(super) fn start(script: &str, args: &[&str]) -> Result<Self> {
        let child = Command::new(PYTHON)
            .args(["-c", script])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Could not start a server")?;
        let mut server = Self {
            child,
            line: String::new(),
        };
        if let Some(output) = server.child.stdout.take() {
            BufReader::new(output).read_line(&mut server.line)?;
        }
        ensure!(!server.line.is_empty(), "The server did not start");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_ends_with_its_input_and_one_that_says_nothing_is_an_error() {
        let script = "import sys; print(sys.argv[1], flush=True); sys.stdin.read()";
        let server = Server::start(script, &["7"]).unwrap();
        assert_eq!(server.line, "7\n");
        drop(server);
        assert!(Server::start("pass", &[]).is_err());
    }
}
