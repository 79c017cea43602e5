//! `run` and `create`.

use std::time::Duration;

use cofferdam::{
    AttachOptions, Coffer, Error, ErrorKind, Result, Sandbox, SandboxSpec, SandboxStatus, Stage,
};

use super::{
    cidfile::CidFile,
    network::{lost_values, read_secrets},
    spec::spec,
};
use crate::{
    args::{CreateArgs, LeaseArgs, RunArgs, SandboxArgs, Stream},
    exit_status::ExitStatus,
    output,
    progress::Bars,
    streams::{self, Join, Kind},
    terminal,
};

/// How much a verb says beside its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detail {
    /// Where the time of a start went.
    pub(crate) timings: bool,
    /// What is done on the way.
    pub(crate) verbose: bool,
}

/// Creates, starts and follows, or leaves, a sandbox.
pub(crate) async fn run(coffer: &Coffer, args: &RunArgs, detail: Detail) -> ExitStatus {
    let process = &args.sandbox.process;
    let run = async || -> Result<ExitStatus> {
        let keys = args.detaching.keys()?;
        if !args.detach {
            streams::check_terminal(process.interactive, process.tty)?;
        }
        let cidfile = CidFile::reserve(args.cidfile.as_deref())?;
        let spec = with_lease(&args.sandbox, &args.lease)?;
        let secrets = read_secrets(&spec.network)?;
        let sandbox = make(coffer, spec, args.sandbox.quiet, detail.verbose).await?;
        sandbox.give_secrets(secrets)?;
        cidfile.write(sandbox.id())?;
        if args.detach {
            let started = or_remove(&sandbox, sandbox.start().await).await?;
            print_stages(detail.timings, &started);
            output::line(sandbox.id());
            return Ok(ExitStatus::Success);
        }
        let is_attached = |stream| args.attach.is_empty() || args.attach.contains(&stream);
        let stdin = process.interactive && is_attached(Stream::Stdin);
        let show = [Stream::Stdout, Stream::Stderr].map(is_attached);
        let options = AttachOptions {
            stdin,
            terminal: process.tty.then(terminal::size).flatten(),
            survives: !args.kill_with_client,
        };
        let started = sandbox.start_attached_with(options).await;
        let (session, stages) = or_remove(&sandbox, started).await?;
        print_stages(detail.timings, &stages);
        if show == [false; 2] {
            // Nothing of it is shown: it gets our input to its end and goes on by itself.
            output::line(sandbox.id());
            streams::feed(session, stdin).await;
            return Ok(ExitStatus::Success);
        }
        let join = Join {
            stdin,
            tty: process.tty,
            kind: Kind::Workload,
            detach_keys: Some(keys),
            proxy: args.proxy.sig_proxy,
            show,
        };
        Ok(streams::join(session, join).await?.into())
    };
    run().await.unwrap_or_else(ExitStatus::RunError)
}

/// Creates a sandbox and prints its id.
pub(crate) async fn create(coffer: &Coffer, args: &CreateArgs, verbose: bool) -> ExitStatus {
    let create = async || -> Result<Sandbox> {
        let cidfile = CidFile::reserve(args.cidfile.as_deref())?;
        let spec = with_lease(&args.sandbox, &args.lease)?;
        let lost = lost_values(&spec.network);
        let sandbox = make(coffer, spec, args.sandbox.quiet, verbose).await?;
        if let Some(warning) = lost {
            output::warning_line(&warning);
        }
        cidfile.write(sandbox.id())?;
        Ok(sandbox)
    };
    match create().await {
        Ok(sandbox) => {
            output::line(sandbox.id());
            ExitStatus::Success
        }
        // Docker's `create` fails with 1 where `run` fails with 125.
        Err(error) => ExitStatus::Error(error),
    }
}

fn with_lease(args: &SandboxArgs, lease: &LeaseArgs) -> Result<SandboxSpec> {
    Ok(SandboxSpec {
        lease: lease.lease(),
        ..spec(args)?
    })
}

async fn make(coffer: &Coffer, spec: SandboxSpec, quiet: bool, verbose: bool) -> Result<Sandbox> {
    let bars = Bars::new(quiet, verbose);
    let sandbox = coffer.create(spec, &bars).await?;
    bars.finish();
    Ok(sandbox)
}

/// Removes a sandbox that `run` has made and that was not started because a port of the host cannot
/// be had: its name is free for the next try.
async fn or_remove<T>(sandbox: &Sandbox, started: Result<T>) -> Result<T> {
    let is_port =
        |error: &Error| matches!(error.kind(), ErrorKind::PortTaken | ErrorKind::Permission);
    if started.as_ref().err().is_some_and(is_port)
        && sandbox
            .info()
            .is_ok_and(|info| info.status == SandboxStatus::Created)
    {
        // The first error is the one to report.
        let _ = sandbox.remove(false).await;
    }
    started
}

/// Prints where the time of a start went, if that was asked for.
pub(crate) fn print_stages(wanted: bool, stages: &[Stage]) {
    if !wanted {
        return;
    }
    for stage in stages {
        output::stage(Duration::from_micros(stage.micros), &stage.name);
    }
    let total = stages.iter().map(|stage| stage.micros).sum();
    output::stage(Duration::from_micros(total), "from request to running");
}
