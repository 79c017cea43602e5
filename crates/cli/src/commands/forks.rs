//! `fork`.

use std::sync::Arc;

use cofferdam::{
    Coffer, Error, ErrorKind, ForkChanges, ForkOptions, Forks, Result, Sandbox, Watcher,
};
use serde_json::json;

use super::{
    env, network,
    snapshots::note_pause,
    spec::{given, labels},
};
use crate::{
    args::{Cpus, ForkArgs},
    exit_status::ExitStatus,
    output,
    progress::Bars,
};

/// Makes new sandboxes from one or from a snapshot.
pub(crate) async fn fork(coffer: &Coffer, args: &ForkArgs, verbose: bool) -> ExitStatus {
    let bars = Arc::new(Bars::new(false, false));
    let forks = async || {
        let mut options = fork_options(args)?;
        options.watcher = Watcher::new(bars.clone());
        forks(coffer, args, &options, &bars).await
    };
    let forks = match forks().await {
        Ok(forks) => forks,
        Err(error) => return ExitStatus::Error(error),
    };
    note_pause(verbose, forks.pause_us);
    note_removal(args, &forks);
    if args.json {
        let infos = forks
            .sandboxes
            .iter()
            .filter_map(|sandbox| sandbox.info().ok())
            .map(|info| {
                let mut info = json!(info);
                info["pause_us"] = json!(forks.pause_us);
                info
            });
        output::json(&infos.collect::<Vec<_>>());
    }
    match forks.failure {
        None => ExitStatus::Success,
        Some(error) => {
            output::error(&error);
            let made = forks.sandboxes.len();
            output::error_line(&format!(
                "{made} of {} forks were made; they can be used",
                args.count
            ));
            ExitStatus::Failure
        }
    }
}

async fn forks(
    coffer: &Coffer,
    args: &ForkArgs,
    options: &ForkOptions,
    bars: &Bars,
) -> Result<Forks> {
    let made = |sandbox: &Sandbox| {
        bars.clear();
        if !args.json {
            output::line(sandbox.id());
        }
    };
    match coffer.fork(&args.source, options, made).await {
        Err(error) if error.kind() == ErrorKind::NotFound && error.hint_text().is_none() => {
            Err(error.hint("List them with `coffer ps -a` and `coffer snapshot list`"))
        }
        forks => forks,
    }
}

/// What the flags ask for.
fn fork_options(args: &ForkArgs) -> Result<ForkOptions> {
    if let Some(flag) = args.fixed.refused() {
        let what = format!("`--{flag}` cannot differ in a fork");
        return Err(Error::new(ErrorKind::Unsupported, what).hint(
            "A fork has it from its source; variables, labels, names, working directory and \
             lower limits can differ",
        ));
    }
    Ok(ForkOptions {
        name: given(&args.name),
        count: args.count,
        disk_only: args.disk_only,
        watcher: Watcher::default(),
        changes: ForkChanges {
            env: env::collect(&args.variables)?,
            labels: labels(&args.label),
            cpus: match args.cpus {
                Some(Cpus::Count(count)) => Some(count),
                Some(Cpus::Default) | None => None,
            },
            memory: args.memory.filter(|size| size.bytes() != 0),
            hostname: given(&args.hostname),
            workdir: given(&args.workdir),
            auto_remove: args.rm,
            lease: args.lease.given(),
            publish: network::ports(&args.publish)?,
            network_aliases: args.network_alias.clone(),
        },
    })
}

/// Says that forks go with their end, where that was not asked for.
fn note_removal(args: &ForkArgs, forks: &Forks) {
    let goes = |sandbox: &Sandbox| sandbox.info().is_ok_and(|info| info.spec.auto_remove);
    if args.rm.is_none() && forks.sandboxes.iter().any(goes) {
        output::note(
            "note: the source is `--rm`, so its forks are removed when they stop; \
             `--rm=false` keeps them",
        );
    }
}
