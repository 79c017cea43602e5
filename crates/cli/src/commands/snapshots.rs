//! `pause`, `unpause`, `snapshot`, `restore`.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, IsTerminal},
    path::Path,
    sync::Arc,
};

use cofferdam::{
    Coffer, Error, ErrorKind, Result, Sandbox, Snapshot, SnapshotKind, SnapshotOptions, Watcher,
};
use serde_json::json;

use super::for_each;
use crate::{
    args::{
        PauseArgs, RestoreArgs, SnapshotCreateArgs, SnapshotExportArgs, SnapshotImportArgs,
        SnapshotListArgs, SnapshotNamesArgs, SnapshotPruneArgs, SnapshotVerb,
    },
    destination::write_to,
    exit_status::ExitStatus,
    output,
    progress::Bars,
    staged_file::Rights,
    time,
};

fn status(result: Result<()>) -> ExitStatus {
    result.into()
}

/// Stops sandboxes where they are.
pub(crate) async fn pause(coffer: &Coffer, args: &PauseArgs) -> ExitStatus {
    for_each(&args.sandboxes, async |name| {
        coffer.sandbox(name)?.pause().await?;
        output::line(name);
        Ok(())
    })
    .await
}

/// Lets sandboxes go on.
pub(crate) async fn unpause(coffer: &Coffer, args: &PauseArgs) -> ExitStatus {
    for_each(&args.sandboxes, async |name| {
        coffer.sandbox(name)?.unpause().await?;
        output::line(name);
        Ok(())
    })
    .await
}

/// Does what `snapshot` is to do.
pub(crate) async fn snapshot(coffer: &Coffer, verb: &SnapshotVerb, verbose: bool) -> ExitStatus {
    match verb {
        SnapshotVerb::Create(args) => status(create(coffer, args, verbose).await),
        SnapshotVerb::List(args) => status(list(coffer, args)),
        SnapshotVerb::Inspect(args) => inspect(coffer, args),
        SnapshotVerb::Verify(args) => verify(coffer, args).await,
        SnapshotVerb::Rm(args) => rm(coffer, args).await,
        SnapshotVerb::Prune(args) => status(prune(coffer, args)),
        SnapshotVerb::Export(args) => {
            export(coffer, args, verbose).unwrap_or_else(ExitStatus::Error)
        }
        SnapshotVerb::Import(args) => status(import(coffer, args, verbose)),
    }
}

async fn create(coffer: &Coffer, args: &SnapshotCreateArgs, verbose: bool) -> Result<()> {
    let options = SnapshotOptions {
        kind: match (args.full, args.disk) {
            (true, _) => Some(SnapshotKind::Full),
            (_, true) => Some(SnapshotKind::Disk),
            _ => None,
        },
        name: args.name.clone(),
        watcher: Watcher::new(Arc::new(Bars::new(false, false))),
    };
    let snapshot = coffer.sandbox(&args.sandbox)?.snapshot(options).await?;
    let info = snapshot.info()?;
    note_pause(verbose, info.pause_us);
    if args.json {
        output::json(&info);
    } else {
        output::line(info.id);
    }
    Ok(())
}

/// Says how long the sandbox was frozen: on a terminal, or with `-v`.
pub(super) fn note_pause(verbose: bool, pause_us: Option<u64>) {
    let wanted = verbose || io::stderr().is_terminal();
    if let (true, Some(micros)) = (wanted, pause_us) {
        output::stage(
            std::time::Duration::from_micros(micros),
            "the sandbox stood still",
        );
    }
}

fn list(coffer: &Coffer, args: &SnapshotListArgs) -> Result<()> {
    let snapshots = coffer.snapshots().list()?;
    let damaged = coffer.snapshots().damaged()?;
    damaged.iter().for_each(|one| output::warning(&one.error));
    let infos: Result<Vec<_>> = snapshots.iter().map(Snapshot::info).collect();
    let infos = infos?;
    if args.json {
        output::json(&infos);
        return Ok(());
    }
    let id = |id: cofferdam::SnapshotId| {
        if args.no_trunc {
            id.to_string()
        } else {
            id.short()
        }
    };
    if args.quiet {
        // A closed pipe ends the list.
        let _ = infos.iter().all(|info| output::line(id(info.id)));
        return Ok(());
    }
    let now = cofferdam::unix_time_ns();
    let rows: Vec<_> = infos
        .iter()
        .map(|info| {
            vec![
                id(info.id),
                info.name.clone().unwrap_or_default(),
                info.kind.to_string(),
                info.sandbox.clone(),
                output::printable(&info.image),
                time::ago(info.created_ns, now),
                output::size(info.disk_bytes),
            ]
        })
        .collect();
    let header = [
        "SNAPSHOT ID",
        "NAME",
        "KIND",
        "SANDBOX",
        "IMAGE",
        "CREATED",
        "SIZE",
    ];
    output::table(&header, &rows);
    Ok(())
}

fn inspect(coffer: &Coffer, args: &SnapshotNamesArgs) -> ExitStatus {
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.snapshots {
        match coffer
            .snapshots()
            .get(name)
            .and_then(|snapshot| snapshot.info())
        {
            Ok(info) => found.push(info),
            Err(error) => {
                output::error(&error);
                failed = true;
            }
        }
    }
    output::json(&found);
    if failed {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}

async fn verify(coffer: &Coffer, args: &SnapshotNamesArgs) -> ExitStatus {
    let mut verified = Vec::new();
    let result = for_each(&args.snapshots, async |name| {
        let snapshot = coffer.snapshots().get(name)?;
        snapshot.verify()?;
        verified.push(snapshot.id());
        if !args.json {
            output::line(name);
        }
        Ok(())
    })
    .await;
    if args.json {
        output::json(&json!({ "verified": verified }));
    }
    result
}

async fn rm(coffer: &Coffer, args: &SnapshotNamesArgs) -> ExitStatus {
    let mut removed = Vec::new();
    let result = for_each(&args.snapshots, async |name| {
        removed.push(coffer.snapshots().remove(name)?);
        if !args.json {
            output::line(name);
        }
        Ok(())
    })
    .await;
    if args.json {
        output::json(&json!({ "removed": removed }));
    }
    result
}

fn prune(coffer: &Coffer, args: &SnapshotPruneArgs) -> Result<()> {
    let what = if args.all {
        "all snapshots"
    } else {
        "all snapshots without a name"
    };
    if !args.force && !super::prune::confirmed(what)? {
        return Ok(());
    }
    let (mut removed, mut freed) = (Vec::new(), 0);
    for snapshot in coffer.snapshots().list()? {
        let info = snapshot.info()?;
        if args.all || info.name.is_none() {
            coffer.snapshots().remove(&info.id.to_string())?;
            freed += info.disk_bytes;
            removed.push(info.id);
        }
    }
    for damaged in coffer.snapshots().damaged()? {
        if args.all || damaged.is_nameless {
            coffer.snapshots().remove(&damaged.id.to_string())?;
            freed += damaged.disk_bytes;
            removed.push(damaged.id);
        }
    }
    if args.json {
        output::json(&json!({ "removed": removed, "freed_bytes": freed }));
        return Ok(());
    }
    for id in removed {
        output::line(format_args!("Deleted snapshot: {id}"));
    }
    output::line(format_args!(
        "Total reclaimed space: {}",
        output::size(freed)
    ));
    Ok(())
}

fn export(coffer: &Coffer, args: &SnapshotExportArgs, verbose: bool) -> Result<ExitStatus> {
    let snapshot = whole_or_disk(coffer, &args.snapshot, args.disk_only)?;
    let bars = Bars::new(args.quiet, verbose);
    let status = write_to(args.output.as_deref(), Rights::Private, |output| {
        snapshot.export(BufWriter::with_capacity(1 << 20, output), &bars)
    })?;
    bars.finish();
    Ok(status)
}

fn import(coffer: &Coffer, args: &SnapshotImportArgs, verbose: bool) -> Result<()> {
    let bars = Bars::new(args.quiet, verbose);
    let name = args.name.as_deref();
    let path = args.input.as_deref().or(args.file.as_deref());
    let snapshot = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Error::new(
                    ErrorKind::Io,
                    format!("Could not read `{}`", path.display()),
                )
                .because(error)
            })?;
            let input = BufReader::with_capacity(1 << 20, file);
            coffer.snapshots().import(input, name, &bars)?
        }
        None if io::stdin().is_terminal() => {
            let what = "A snapshot does not come from a terminal";
            return Err(Error::new(ErrorKind::InvalidSpec, what).hint("Name a file"));
        }
        None => coffer.snapshots().import(io::stdin().lock(), name, &bars)?,
    };
    bars.finish();
    if args.json {
        output::json(&snapshot.info()?);
    } else {
        output::line(snapshot.id());
    }
    Ok(())
}

/// Brings a sandbox back.
pub(crate) async fn restore(coffer: &Coffer, args: &RestoreArgs) -> ExitStatus {
    let restore = async || -> Result<()> {
        let snapshot = whole_or_disk(coffer, &args.snapshot, args.disk_only)?;
        let sandbox = match &args.name {
            Some(name) => snapshot.restore_as(name).await?,
            None => snapshot.restore().await?,
        };
        print_sandbox(&sandbox, args.json)
    };
    status(restore().await)
}

fn whole_or_disk(coffer: &Coffer, name: &str, disk_only: bool) -> Result<Snapshot> {
    let snapshot = coffer.snapshots().get(name)?;
    Ok(if disk_only {
        snapshot.disk_only()
    } else {
        snapshot
    })
}

fn print_sandbox(sandbox: &Sandbox, json: bool) -> Result<()> {
    if json {
        output::json(&sandbox.info()?);
    } else {
        output::line(sandbox.id());
    }
    Ok(())
}
