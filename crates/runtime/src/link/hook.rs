//! The command of `--on-fork`: it runs in a copied guest before the copied processes go on.

use std::time::Duration;

use cofferdam_proto::{AgentMessage, CONTROL_STREAM, HostMessage, ProcessSpec};

use super::{AgentLink, GuestSetup};
use crate::{
    base::error::{Error, ErrorKind, Result},
    spec::process,
};

/// How long the command may take. It cannot wait for the workload, which is frozen; so one that
/// takes this long waits for something that does not come.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `command` and waits for its end.
///
/// # Errors
/// [`ErrorKind::GuestFailed`] when it fails or takes longer than 30 s: then the copied processes
/// must not go on.
pub(super) async fn run(agent: &mut AgentLink, setup: &GuestSetup, command: &str) -> Result<()> {
    let hook = HostMessage::Hook {
        process: process_of(setup, command),
        timeout_ms: u32::try_from(TIMEOUT.as_millis()).unwrap_or(u32::MAX),
    };
    agent.send(&[(CONTROL_STREAM, hook)]).await?;
    let (status, output) = agent
        .expect(CONTROL_STREAM, |message| match message {
            AgentMessage::HookEnded { status, output } => Some((*status, output.clone())),
            _ => None,
        })
        .await?;
    let what = match status.map(cofferdam_types::ExitStatus::code) {
        Some(0) => return Ok(()),
        Some(code) => format!("The fork hook `{command}` ended with {code}"),
        None => format!(
            "The fork hook `{command}` did not end in {} s",
            TIMEOUT.as_secs()
        ),
    };
    let error = Error::new(ErrorKind::GuestFailed, what)
        .hint("The hook runs while all other processes of the sandbox are frozen; it must not wait for them");
    Err(match printable(&output) {
        text if text.is_empty() => error,
        text => error.because(std::io::Error::other(format!("it printed `{text}`"))),
    })
}

/// The command as the workload's user, in its environment and directory.
fn process_of(setup: &GuestSetup, command: &str) -> ProcessSpec {
    let mut env = setup.process.env.clone();
    process::set_env(&mut env, format!("HOSTNAME={}", setup.hostname));
    ProcessSpec {
        argv: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        env,
        terminal: None,
        stdin: false,
        ..setup.process.clone()
    }
}

/// The guest chose these bytes: no control character of its may reach a terminal.
fn printable(output: &[u8]) -> String {
    String::from_utf8_lossy(output)
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_hook_has_no_control_characters() {
        assert_eq!(printable(b"\x1b[31mred\n"), " [31mred");
    }
}
