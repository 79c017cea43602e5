//! `prune`, `image prune` and `container prune`.

use std::io::{self, BufRead, IsTerminal, Write};

use cofferdam::{Coffer, Error, ErrorKind, Result, TemplateInfo};
use serde_json::json;

use crate::{args::PruneArgs, exit_status::ExitStatus, output};

/// Removes stopped sandboxes, then images, then templates.
pub(crate) async fn everything(coffer: &Coffer, args: &PruneArgs) -> ExitStatus {
    prune(coffer, args, true).await.into()
}

/// Removes images.
pub(crate) async fn images(coffer: &Coffer, args: &PruneArgs) -> ExitStatus {
    prune(coffer, args, false).await.into()
}

/// Removes stopped sandboxes.
pub(crate) async fn sandboxes(coffer: &Coffer, args: &PruneArgs) -> ExitStatus {
    let prune = async || -> Result<()> {
        if !args.force && !confirmed("all stopped sandboxes")? {
            return Ok(());
        }
        let gone = coffer.prune_sandboxes().await?;
        if args.json {
            output::json(&json!({ "sandboxes": gone }));
            return Ok(());
        }
        // A closed pipe ends the list.
        let _ = gone
            .iter()
            .all(|id| output::line(format_args!("Deleted sandbox: {id}")));
        Ok(())
    };
    prune().await.into()
}

async fn prune(coffer: &Coffer, args: &PruneArgs, sandboxes: bool) -> Result<()> {
    let images = if args.all {
        "all images that no sandbox uses"
    } else {
        "all images without a name"
    };
    let what = match (sandboxes, args.all) {
        (true, true) => {
            format!("all stopped sandboxes, {images}, and all templates that starts make")
        }
        (true, false) => {
            format!("all stopped sandboxes, {images}, and templates that nothing needs")
        }
        (false, _) => format!("{images}, and templates that nothing needs"),
    };
    if !args.force && !confirmed(&what)? {
        return Ok(());
    }
    let gone = match sandboxes {
        true => coffer.prune_sandboxes().await?,
        false => Vec::new(),
    };
    let before = coffer.templates().list()?;
    let removed = coffer.images().prune(args.all)?;
    match sandboxes && args.all {
        true => coffer.templates().prune_all()?,
        false => coffer.templates().prune()?,
    };
    let templates = gone_of(before, &coffer.templates().list()?);
    if args.json {
        output::json(&json!({"sandboxes": gone, "templates": templates.keys, "images": removed}));
        return Ok(());
    }
    for id in gone {
        output::line(format_args!("Deleted sandbox: {id}"));
    }
    for key in &templates.keys {
        output::line(format_args!("Deleted template: {key}"));
    }
    super::images::print_removed(&removed);
    let freed = output::size(removed.freed_bytes);
    output::line(format_args!("Total reclaimed space of images: {freed}"));
    if !templates.keys.is_empty() {
        let freed = output::size(templates.freed_bytes);
        output::line(format_args!("Total reclaimed space of templates: {freed}"));
    }
    Ok(())
}

/// Templates that were removed.
#[derive(Default)]
struct Templates {
    keys: Vec<String>,
    freed_bytes: u64,
}

/// The templates of `before` that are not there `now`: those that nothing needs go with the images.
fn gone_of(before: Vec<TemplateInfo>, now: &[TemplateInfo]) -> Templates {
    let mut gone = Templates::default();
    for info in before {
        if !now.iter().any(|other| other.key == info.key) {
            gone.keys.push(info.key);
            gone.freed_bytes += info.disk_bytes;
        }
    }
    gone
}

/// Asks, on a terminal; elsewhere nobody can answer.
pub(super) fn confirmed(what: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        let what = format!("Nobody can be asked whether to remove {what}");
        return Err(Error::new(ErrorKind::InvalidSpec, what).hint("Say so with `--force`"));
    }
    let ask = || {
        let mut stderr = io::stderr().lock();
        write!(stderr, "Remove {what}? [y/N] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    };
    ask().map_err(|error: io::Error| {
        Error::new(ErrorKind::Io, "Could not ask for confirmation").because(error)
    })
}
