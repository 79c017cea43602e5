//! `exec` and `attach`.

use cofferdam::{Coffer, ExecSpec, Result};

use super::{env, spec::given};
use crate::{
    args::{AttachArgs, ExecArgs},
    exit_status::ExitStatus,
    output,
    streams::{self, Ended, Join, Kind},
    terminal,
};

/// A terminal's size when ours has none to tell.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Runs one more command in a running sandbox.
pub(crate) async fn exec(coffer: &Coffer, args: &ExecArgs) -> ExitStatus {
    let process = &args.process;
    let start = async || -> Result<_> {
        let keys = args.detaching.keys()?;
        if !args.detach {
            streams::check_terminal(process.interactive, process.tty)?;
        }
        let mut spec = ExecSpec::new(args.command());
        spec.env = env::collect(&process.variables)?;
        spec.workdir = given(&process.workdir);
        spec.user = given(&process.user);
        spec.terminal = process
            .tty
            .then(|| terminal::size().unwrap_or(DEFAULT_SIZE));
        spec.stdin = process.interactive;
        spec.wait_all = args.wait_all;
        spec.kill_with_client = args.kill_with_client;
        spec.timeout = args.timeout;
        spec.privileged = args.privileged;
        let sandbox = coffer.sandbox(args.sandbox())?;
        if args.detach {
            output::line(sandbox.exec_detached(spec).await?);
            return Ok(None);
        }
        let session = sandbox.exec(spec).await?;
        let join = Join {
            stdin: process.interactive,
            tty: process.tty,
            kind: Kind::Command,
            detach_keys: Some(keys),
            ..Join::default()
        };
        streams::join(session, join).await.map(Some)
    };
    match start().await {
        Ok(Some(Ended::TimedOut)) => {
            if let Some(limit) = args.timeout {
                output::error_line(&format!("The command was ended after {limit:?}"));
            }
            Ended::TimedOut.into()
        }
        Ok(Some(ended)) => ended.into(),
        Ok(None) => ExitStatus::Success,
        Err(error) => ExitStatus::RunError(error),
    }
}

/// Follows a running sandbox.
pub(crate) async fn attach(coffer: &Coffer, args: &AttachArgs) -> ExitStatus {
    let follow = async || -> Result<_> {
        let keys = args.detaching.keys()?;
        let sandbox = coffer.sandbox(&args.sandbox)?;
        if let Some(id) = args.session {
            let stdin = !args.no_stdin;
            let session = sandbox.attach_session(id, stdin).await?;
            let join = Join {
                stdin,
                kind: Kind::Visit,
                detach_keys: Some(keys),
                proxy: args.proxy.sig_proxy,
                ..Join::default()
            };
            return streams::join(session, join).await;
        }
        let spec = sandbox.info()?.spec;
        let stdin = spec.stdin && !args.no_stdin;
        streams::check_terminal(stdin, spec.tty)?;
        let session = sandbox.attach(stdin).await?;
        let join = Join {
            stdin,
            tty: spec.tty,
            kind: Kind::Visit,
            detach_keys: Some(keys),
            proxy: args.proxy.sig_proxy,
            ..Join::default()
        };
        streams::join(session, join).await
    };
    match follow().await {
        Ok(ended) => ended.into(),
        Err(error) => ExitStatus::Error(error),
    }
}
