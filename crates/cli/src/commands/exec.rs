//! `exec` and `attach`.

use cofferdam::{Coffer, ExecSpec, Result};

use super::env;
use crate::{
    args::{AttachArgs, ExecArgs},
    exit_status::ExitStatus,
    streams::{self, Join},
    terminal,
};

/// A terminal's size when ours has none to tell.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Runs one more command in a running sandbox.
pub(crate) async fn exec(coffer: &Coffer, args: &ExecArgs) -> ExitStatus {
    let process = &args.process;
    if !args.detach
        && let Some(status) = streams::check_terminal(process.interactive, process.tty)
    {
        return status;
    }
    let start = async || -> Result<_> {
        let spec = ExecSpec {
            command: args.command().to_vec(),
            env: env::collect(&process.env, &process.env_file)?,
            workdir: process.workdir.clone(),
            user: process.user.clone(),
            terminal: process
                .tty
                .then(|| terminal::size().unwrap_or(DEFAULT_SIZE)),
            stdin: process.interactive,
        };
        let sandbox = coffer.sandbox(args.sandbox())?;
        if args.detach {
            sandbox.exec_detached(spec).await?;
            return Ok(None);
        }
        sandbox.exec(spec).await.map(Some)
    };
    match start().await {
        Ok(Some(session)) => {
            streams::join(
                session,
                Join {
                    stdin: process.interactive,
                    tty: process.tty,
                },
            )
            .await
        }
        Ok(None) => ExitStatus::Success,
        Err(error) => ExitStatus::RunError(error),
    }
}

/// Follows a running sandbox.
pub(crate) async fn attach(coffer: &Coffer, args: &AttachArgs) -> ExitStatus {
    let start = async || -> Result<_> {
        let sandbox = coffer.sandbox(&args.sandbox)?;
        let spec = sandbox.info()?.spec;
        let stdin = spec.stdin && !args.no_stdin;
        Ok((
            sandbox.attach(stdin).await?,
            Join {
                stdin,
                tty: spec.tty,
            },
        ))
    };
    match start().await {
        Ok((session, join)) => streams::join(session, join).await,
        Err(error) => ExitStatus::Error(error),
    }
}
