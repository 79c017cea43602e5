//! `start`, `stop`, `restart`, `kill`, `rm`, `wait`.

use std::time::Duration;

use cofferdam::{AttachOptions, Coffer, ErrorKind, Result, SandboxStatus};

use super::{network::secret_values, run::print_stages, side_by_side::side_by_side};
use crate::{
    args::{KillArgs, RestartArgs, RmArgs, StartArgs, StopArgs, TimeoutArgs, WaitArgs},
    exit_status::ExitStatus,
    output,
    streams::{self, Join, Kind},
    terminal,
};

/// Starts sandboxes, or one and follows it.
pub(crate) async fn start(coffer: &Coffer, args: &StartArgs, timings: bool) -> ExitStatus {
    if args.attach || args.interactive {
        let [name] = args.sandboxes.as_slice() else {
            output::error_line("Only one sandbox can be attached to at once");
            return ExitStatus::Failure;
        };
        return start_attached(coffer, name, args, timings).await;
    }
    // Once, since a file may be a pipe.
    let secrets = match secret_values(&args.secret) {
        Ok(secrets) => secrets,
        Err(error) => return ExitStatus::Error(error),
    };
    side_by_side(&args.sandboxes, async |name| {
        let sandbox = coffer.sandbox(name)?;
        sandbox.give_secrets(secrets.clone())?;
        match sandbox.info()?.status {
            // As Docker: starting what runs, or is being started, is done already.
            SandboxStatus::Running => {}
            SandboxStatus::Starting => sandbox.wait_until_started().await?,
            _ => match sandbox.start().await {
                Ok(stages) => print_stages(timings, &stages),
                // Another command was faster.
                Err(error)
                    if error.kind() == ErrorKind::WrongState
                        && matches!(
                            sandbox.info()?.status,
                            SandboxStatus::Starting | SandboxStatus::Running
                        ) =>
                {
                    sandbox.wait_until_started().await?;
                }
                Err(error) => return Err(error),
            },
        }
        Ok(Some(name.to_owned()))
    })
    .await
}

async fn start_attached(
    coffer: &Coffer,
    name: &str,
    args: &StartArgs,
    timings: bool,
) -> ExitStatus {
    let stdin = args.interactive;
    let follow = async || -> Result<_> {
        let keys = args.detaching.keys()?;
        let sandbox = coffer.sandbox(name)?;
        sandbox.give_secrets(secret_values(&args.secret)?)?;
        let tty = sandbox.info()?.spec.tty;
        streams::check_terminal(stdin, tty)?;
        let options = AttachOptions {
            stdin,
            terminal: tty.then(terminal::size).flatten(),
            survives: true,
        };
        let (session, stages) = sandbox.start_attached_with(options).await?;
        print_stages(timings, &stages);
        let join = Join {
            stdin,
            tty,
            kind: Kind::Workload,
            detach_keys: Some(keys),
            proxy: args.proxy.sig_proxy,
            ..Join::default()
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
    side_by_side(&args.sandboxes, async |name| {
        coffer
            .sandbox(name)?
            .stop(args.time.map(Duration::from_secs))
            .await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

/// Stops and starts sandboxes.
pub(crate) async fn restart(coffer: &Coffer, args: &RestartArgs) -> ExitStatus {
    side_by_side(&args.stop.sandboxes, async |name| {
        let timeout = args.stop.time.map(Duration::from_secs);
        coffer.sandbox(name)?.restart(timeout).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

/// Sends a signal to sandboxes.
pub(crate) async fn kill(coffer: &Coffer, args: &KillArgs) -> ExitStatus {
    side_by_side(&args.sandboxes, async |name| {
        coffer.sandbox(name)?.kill(args.signal).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

/// Changes when a sandbox's time is over.
pub(crate) async fn timeout(coffer: &Coffer, args: &TimeoutArgs) -> Result<()> {
    let sandbox = coffer.sandbox(&args.sandbox)?;
    match (args.extend, args.time.limit()) {
        (true, Some(limit)) => sandbox.extend_timeout(limit).await?,
        // No end is later than every other.
        (_, limit) => sandbox.set_timeout(limit).await?,
    }
    output::line(&args.sandbox);
    Ok(())
}

/// Removes sandboxes.
pub(crate) async fn rm(coffer: &Coffer, args: &RmArgs) -> ExitStatus {
    side_by_side(&args.sandboxes, async |name| {
        match coffer.remove(name, args.force).await {
            // As in Docker: it is as it was to be, and yet it may have been misspelt.
            Err(error) if args.force && error.kind() == ErrorKind::NotFound => {
                output::error(&error);
                Ok(None)
            }
            removed => removed.map(|()| Some(name.to_owned())),
        }
    })
    .await
}

/// Waits for sandboxes and prints their exit codes.
pub(crate) async fn wait(coffer: &Coffer, args: &WaitArgs) -> ExitStatus {
    side_by_side(&args.sandboxes, async |name| {
        let sandbox = coffer.sandbox(name)?;
        let status = sandbox.wait().await?;
        // One that removes itself is gone; its own client has the warnings.
        if let Ok(info) = sandbox.info() {
            info.warnings().iter().for_each(output::warning);
        }
        Ok(Some(status.code().to_string()))
    })
    .await
}
