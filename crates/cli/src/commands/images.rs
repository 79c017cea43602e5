//! `images`, `pull`, `load`, `save`, `tag`, `rmi`, `history`.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
};

use cofferdam::{
    Coffer, Digest, Error, ErrorKind, LoadSource, Platform, Reference, Result, SaveFormat,
};

use crate::{
    args::{HistoryArgs, ImagesArgs, LoadArgs, PullArgs, RmiArgs, SaveArgs, TagArgs},
    exit_status::ExitStatus,
    output,
    progress::Bars,
};

fn status(result: Result<()>) -> ExitStatus {
    match result {
        Ok(()) => ExitStatus::Success,
        Err(error) => ExitStatus::Error(error),
    }
}

fn id(digest: &Digest, whole: bool) -> String {
    if whole {
        digest.to_string()
    } else {
        digest.short()
    }
}

/// Lists images.
pub(crate) fn images(coffer: &Coffer, args: &ImagesArgs) -> ExitStatus {
    status(list(coffer, args))
}

fn list(coffer: &Coffer, args: &ImagesArgs) -> Result<()> {
    let mut images = coffer.images().list()?;
    if let Some(wanted) = &args.repository {
        images.retain(|image| {
            image
                .references
                .iter()
                .any(|name| name == wanted || split(name).0 == *wanted)
        });
    }
    if args.json {
        output::json(&images);
        return Ok(());
    }
    if args.quiet {
        let _ = images
            .iter()
            .all(|image| output::line(id(&image.id, args.no_trunc)));
        return Ok(());
    }
    let mut rows = Vec::new();
    for image in &images {
        let names = if image.references.is_empty() {
            vec![("<none>".to_owned(), "<none>".to_owned())]
        } else {
            image.references.iter().map(|name| split(name)).collect()
        };
        for (repository, tag) in names {
            rows.push(vec![
                output::printable(&repository),
                output::printable(&tag),
                id(&image.id, args.no_trunc),
                image.platform.to_string(),
                output::ago(image.added_ns, cofferdam::unix_time_ns()),
                output::size(image.size_bytes),
            ]);
        }
    }
    output::table(
        &["REPOSITORY", "TAG", "IMAGE ID", "PLATFORM", "ADDED", "SIZE"],
        &rows,
    );
    Ok(())
}

/// Repository and tag of a familiar name; a port's colon comes before a slash.
fn split(name: &str) -> (String, String) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (name.to_owned(), "<none>".to_owned()),
    }
}

/// Fetches an image.
pub(crate) async fn pull(coffer: &Coffer, args: &PullArgs) -> ExitStatus {
    let fetch = async || -> Result<()> {
        let reference: Reference = cofferdam::parse_reference(&args.image)?;
        let platform = args.platform.clone().unwrap_or_else(Platform::host);
        let bars = Bars::new(args.quiet);
        let image = coffer.images().pull(&reference, &platform, &bars).await?;
        drop(bars);
        if args.quiet {
            output::line(image.id);
        } else {
            output::line(format_args!("Pulled {}: {}", reference, image.id));
        }
        Ok(())
    };
    status(fetch().await)
}

/// Loads images.
pub(crate) fn load(coffer: &Coffer, args: LoadArgs) -> ExitStatus {
    let LoadArgs {
        input,
        quiet,
        platform,
    } = args;
    let read = || -> Result<()> {
        let source = match input {
            Some(path) => LoadSource::Path(path),
            None if io::stdin().is_terminal() => {
                return Err(Error::new(
                    ErrorKind::InvalidSpec,
                    "Standard input is a terminal, not an image",
                )
                .hint("Name a file with `-i`, or pipe an archive in"));
            }
            None => LoadSource::Reader(Box::new(io::stdin())),
        };
        let platform = platform.unwrap_or_else(Platform::host);
        let bars = Bars::new(quiet);
        let loaded = coffer.images().load(source, &platform, &bars)?;
        drop(bars);
        for image in loaded {
            if image.references.is_empty() {
                output::line(format_args!("Loaded image ID: {}", image.image.id));
            }
            for name in image.references {
                output::line(format_args!("Loaded image: {}", output::printable(&name)));
            }
        }
        Ok(())
    };
    status(read())
}

/// Saves images.
pub(crate) fn save(coffer: &Coffer, args: &SaveArgs) -> ExitStatus {
    status(write(coffer, args))
}

fn write(coffer: &Coffer, args: &SaveArgs) -> Result<()> {
    let format = if args.format == "oci" {
        SaveFormat::Oci
    } else {
        SaveFormat::Docker
    };
    let Some(path) = &args.output else {
        if io::stdout().is_terminal() {
            return Err(Error::new(
                ErrorKind::InvalidSpec,
                "Standard output is a terminal, not a file",
            )
            .hint("Name a file with `-o`, or redirect the output"));
        }
        return coffer
            .images()
            .save(&args.images, format, &mut io::stdout().lock());
    };
    let failed = |error: io::Error| {
        let what = format!("Could not write `{}`", path.display());
        let full = error.kind() == io::ErrorKind::StorageFull;
        let kind = if full {
            ErrorKind::NoSpace
        } else {
            ErrorKind::Io
        };
        Error::new(kind, what).because(error)
    };
    let mut file = File::create(path).map_err(failed)?;
    let result = coffer
        .images()
        .save(&args.images, format, &mut file)
        .and_then(|()| file.flush().map_err(failed));
    if result.is_err() {
        // Half an archive is worth nothing; the first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    result
}

/// Gives an image one more name.
pub(crate) fn tag(coffer: &Coffer, args: &TagArgs) -> ExitStatus {
    status(
        cofferdam::parse_reference(&args.name)
            .and_then(|name| coffer.images().tag(&args.image, &name)),
    )
}

/// Removes images.
pub(crate) fn rmi(coffer: &Coffer, args: &RmiArgs) -> ExitStatus {
    let mut failed = false;
    for name in &args.images {
        match coffer.images().remove(name, args.force) {
            Ok(removed) => {
                for name in removed.untagged {
                    output::line(format_args!("Untagged: {}", output::printable(&name)));
                }
                for digest in removed.deleted {
                    output::line(format_args!("Deleted: {digest}"));
                }
            }
            Err(error) => {
                output::error(&error);
                failed = true;
            }
        }
    }
    if failed {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}

/// Longest step that a row shows, in characters.
const STEP_CHARS: usize = 45;

/// Shows how an image was made.
pub(crate) fn history(coffer: &Coffer, args: &HistoryArgs) -> ExitStatus {
    let steps = match coffer.images().history(&args.image) {
        Ok(steps) => steps,
        Err(error) => return ExitStatus::Error(error),
    };
    if args.json {
        output::json(&steps);
        return ExitStatus::Success;
    }
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let text = output::printable(&step.created_by);
            let cut = text.chars().count() > STEP_CHARS && !args.no_trunc;
            let shown = if cut {
                text.chars().take(STEP_CHARS - 1).collect::<String>() + "…"
            } else {
                text
            };
            vec![
                step.id
                    .as_ref()
                    .map_or_else(|| "<missing>".to_owned(), |d| id(d, args.no_trunc)),
                step.created.clone().unwrap_or_default(),
                shown,
                output::size(step.size_bytes),
            ]
        })
        .collect();
    output::table(&["IMAGE", "CREATED", "CREATED BY", "SIZE"], &rows);
    ExitStatus::Success
}
