//! `run` and `create`.

use cofferdam::{Coffer, Result, Sandbox, Stage};

use super::spec::spec;
use crate::{
    args::{CreateArgs, RunArgs, SandboxArgs},
    exit_status::ExitStatus,
    output,
    progress::Bars,
    streams::{self, Join},
};

/// Creates, starts and follows, or leaves, a sandbox.
pub(crate) async fn run(coffer: &Coffer, args: &RunArgs, verbose: bool) -> ExitStatus {
    let process = &args.sandbox.process;
    if !args.detach
        && let Some(status) = streams::check_terminal(process.interactive, process.tty)
    {
        return status;
    }
    let sandbox = match make(coffer, &args.sandbox, verbose).await {
        Ok(sandbox) => sandbox,
        Err(error) => return ExitStatus::RunError(error),
    };
    if args.detach {
        return match sandbox.start().await {
            Ok(stages) => {
                print_stages(verbose, &stages);
                output::line(sandbox.id());
                ExitStatus::Success
            }
            Err(error) => ExitStatus::RunError(error),
        };
    }
    match sandbox.start_attached(process.interactive).await {
        Ok((session, stages)) => {
            print_stages(verbose, &stages);
            streams::join(
                session,
                Join {
                    stdin: process.interactive,
                    tty: process.tty,
                },
            )
            .await
        }
        Err(error) => ExitStatus::RunError(error),
    }
}

/// Creates a sandbox and prints its id.
pub(crate) async fn create(coffer: &Coffer, args: &CreateArgs, verbose: bool) -> ExitStatus {
    match make(coffer, &args.sandbox, verbose).await {
        Ok(sandbox) => {
            output::line(sandbox.id());
            ExitStatus::Success
        }
        // Docker's `create` fails with 1 where `run` fails with 125.
        Err(error) => ExitStatus::Error(error),
    }
}

async fn make(coffer: &Coffer, args: &SandboxArgs, verbose: bool) -> Result<Sandbox> {
    let spec = spec(args, verbose)?;
    let bars = Bars::new(args.quiet);
    coffer.create(spec, &bars).await
}

/// Prints where the time of a start went.
pub(crate) fn print_stages(verbose: bool, stages: &[Stage]) {
    if !verbose {
        return;
    }
    let millis = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    for stage in stages {
        output::note(format_args!("{:>12}  {}", millis(stage.micros), stage.name));
    }
    let total = stages.iter().map(|stage| stage.micros).sum();
    output::note(format_args!(
        "{:>12}  from request to running",
        millis(total)
    ));
}
