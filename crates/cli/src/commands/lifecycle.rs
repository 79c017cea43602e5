//! `start`, `stop`, `restart`, `kill`, `rm`, `wait`.

use std::time::Duration;

use cofferdam::{Coffer, ErrorKind, Result, SandboxStatus};

use super::{for_each, run::print_stages};
use crate::{
    args::{KillArgs, RestartArgs, RmArgs, StartArgs, StopArgs, WaitArgs},
    exit_status::ExitStatus,
    output,
    streams::{self, Join},
};

/// Starts sandboxes, or one and follows it.
pub(crate) async fn start(coffer: &Coffer, args: &StartArgs, verbose: bool) -> ExitStatus {
    if args.attach || args.interactive {
        let [name] = args.sandboxes.as_slice() else {
            output::error_line("Only one sandbox can be attached to at once");
            return ExitStatus::Failure;
        };
        return start_attached(coffer, name, args, verbose).await;
    }
    for_each(&args.sandboxes, async |name| {
        let sandbox = coffer.sandbox(name)?;
        // As Docker: starting what runs is done already.
        if sandbox.info()?.status != SandboxStatus::Running {
            print_stages(verbose, &sandbox.start().await?);
        }
        output::line(name);
        Ok(())
    })
    .await
}

async fn start_attached(
    coffer: &Coffer,
    name: &str,
    args: &StartArgs,
    verbose: bool,
) -> ExitStatus {
    let stdin = args.interactive;
    let follow = async || -> Result<_> {
        let keys = args.detaching.keys()?;
        let sandbox = coffer.sandbox(name)?;
        let tty = sandbox.info()?.spec.tty;
        streams::check_terminal(stdin, tty)?;
        let (session, stages) = sandbox.start_attached(stdin).await?;
        print_stages(verbose, &stages);
        let join = Join {
            stdin,
            tty,
            owned: false,
            detach_keys: Some(keys),
        };
        streams::join(session, join).await
    };
    match follow().await {
        Ok(ended) => ended.into(),
        Err(error) if error.kind() == ErrorKind::NotFound => ExitStatus::Error(error),
        Err(error) => ExitStatus::RunError(error),
    }
}

/// Stops sandboxes.
pub(crate) async fn stop(coffer: &Coffer, args: &StopArgs) -> ExitStatus {
    for_each(&args.sandboxes, async |name| {
        coffer
            .sandbox(name)?
            .stop(args.time.map(Duration::from_secs))
            .await?;
        output::line(name);
        Ok(())
    })
    .await
}

/// Stops and starts sandboxes.
pub(crate) async fn restart(coffer: &Coffer, args: &RestartArgs) -> ExitStatus {
    for_each(&args.stop.sandboxes, async |name| {
        let sandbox = coffer.sandbox(name)?;
        sandbox
            .stop(args.stop.time.map(Duration::from_secs))
            .await?;
        sandbox.start().await?;
        output::line(name);
        Ok(())
    })
    .await
}

/// Sends a signal to sandboxes.
pub(crate) async fn kill(coffer: &Coffer, args: &KillArgs) -> ExitStatus {
    for_each(&args.sandboxes, async |name| {
        coffer.sandbox(name)?.kill(args.signal).await?;
        output::line(name);
        Ok(())
    })
    .await
}

/// Removes sandboxes.
pub(crate) async fn rm(coffer: &Coffer, args: &RmArgs) -> ExitStatus {
    for_each(&args.sandboxes, async |name| {
        coffer.remove(name, args.force).await?;
        output::line(name);
        Ok(())
    })
    .await
}

/// Waits for sandboxes and prints their exit codes.
pub(crate) async fn wait(coffer: &Coffer, args: &WaitArgs) -> ExitStatus {
    for_each(&args.sandboxes, async |name| {
        let status = coffer.sandbox(name)?.wait().await?;
        output::line(status.code());
        Ok(())
    })
    .await
}
