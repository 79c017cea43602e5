//! `images`, `pull`, `load`, `save`, `tag`, `rmi`, `history`.

use std::io::{self, IsTerminal};

use cofferdam::{
    Coffer, Digest, Error, ErrorKind, HistoryEntry, LoadSource, Platform, Reference, Removed,
    Result, SaveFormat,
};
use serde_json::{Value, json};

use super::docker_names;
use crate::{
    args::{HistoryArgs, ImagesArgs, LoadArgs, PullArgs, RmiArgs, SaveArgs, TagArgs},
    destination::write_to,
    exit_status::ExitStatus,
    format::{Format, Row, print_rows},
    go_template::Template,
    output,
    progress::Bars,
    staged_file::Rights,
    time,
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
        images.retain_mut(|image| {
            image.references.retain(|name| matches(name, wanted));
            !image.references.is_empty()
        });
    }
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    if matches!(format, Format::Json) {
        output::json(&images);
        return Ok(());
    }
    if args.quiet {
        let _ = images
            .iter()
            .all(|image| output::line(id(&image.id, args.no_trunc)));
        return Ok(());
    }
    let now = cofferdam::unix_time_ns();
    let mut rows = Vec::new();
    let mut fields = Vec::new();
    for image in &images {
        let names = if image.references.is_empty() {
            vec![("<none>".to_owned(), "<none>".to_owned())]
        } else {
            image.references.iter().map(|name| split(name)).collect()
        };
        for (repository, tag) in names {
            fields.push(json!({
                "ID": id(&image.id, args.no_trunc),
                "Repository": output::printable(&repository),
                "Tag": output::printable(&tag),
                "Digest": image.manifest,
                "CreatedSince": created(image.created.as_deref(), now),
                "CreatedAt": image.created.as_deref().map_or_else(|| "N/A".to_owned(), output::printable),
                "Size": output::size(image.size_bytes),
            }));
            let mut row = vec![output::printable(&repository), output::printable(&tag)];
            if args.digests {
                row.push(image.manifest.to_string());
            }
            row.extend([
                id(&image.id, args.no_trunc),
                created(image.created.as_deref(), now),
                output::size(image.size_bytes),
            ]);
            rows.push(row);
        }
    }
    if let Format::Rows { template, header } = &format {
        return print_fields(template, *header, fields);
    }
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        header.insert(2, "DIGEST");
    }
    output::table(&header, &rows);
    Ok(())
}

/// Prints rows that have no labels by a template.
fn print_fields(template: &Template, header: bool, fields: Vec<Value>) -> Result<()> {
    let row = |fields| Row {
        fields,
        labels: None,
    };
    let rows: Vec<Row> = fields.into_iter().map(row).collect();
    print_rows(template, header, docker_names::IMAGE_TITLES, &rows)
}

/// When an image was made, for people; images often do not say, or say what is no time.
fn created(text: Option<&str>, now: u64) -> String {
    match text.and_then(time::rfc3339) {
        Some(created) => time::ago(created, now),
        None => "N/A".to_owned(),
    }
}

/// Repository and tag as people write them, from a full name.
fn split(name: &str) -> (String, String) {
    let none = || "<none>".to_owned();
    match cofferdam::parse_reference(name) {
        Ok(name) => (
            name.familiar_name(),
            name.tag().map_or_else(none, str::to_owned),
        ),
        // The store holds none such; if it did, it would be shown as it is.
        Err(_) => (name.to_owned(), none()),
    }
}

/// A full name as people write it.
fn familiar(name: &str) -> String {
    let short = cofferdam::parse_reference(name).map(|name| name.familiar());
    output::printable(&short.unwrap_or_else(|_| name.to_owned()))
}

/// Whether a full name is what `REPOSITORY[:TAG]` asks for.
fn matches(name: &str, wanted: &str) -> bool {
    let Ok(asked) = cofferdam::parse_reference(wanted) else {
        return false;
    };
    // A reference without a tag gets the default one; a repository alone means any.
    let any_tag = !wanted.contains('@') && split_tag(wanted).is_none();
    cofferdam::parse_reference(name)
        .is_ok_and(|name| name.name() == asked.name() && (any_tag || name == asked))
}

/// The tag that a text names; a port's colon comes before a slash.
fn split_tag(text: &str) -> Option<&str> {
    let (_, tag) = text.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

/// Fetches an image.
pub(crate) async fn pull(coffer: &Coffer, args: &PullArgs, verbose: bool) -> ExitStatus {
    let fetch = async || -> Result<()> {
        let reference: Reference = cofferdam::parse_reference(&args.image)?;
        let platform = args.platform.clone().unwrap_or_else(Platform::host);
        let bars = Bars::new(args.quiet, verbose);
        let image = coffer.images().pull(&reference, &platform, &bars).await?;
        bars.finish();
        if args.json {
            output::json(&json!({
                "reference": reference.to_string(),
                "id": image.id,
                "manifest": image.manifest,
                "platform": image.platform,
            }));
        } else if args.quiet {
            output::line(image.id);
        } else {
            output::line(format_args!("Pulled {reference}: {}", image.id));
        }
        Ok(())
    };
    status(fetch().await)
}

/// Loads images.
pub(crate) fn load(coffer: &Coffer, args: LoadArgs, verbose: bool) -> ExitStatus {
    status(read(coffer, args, verbose))
}

fn read(coffer: &Coffer, args: LoadArgs, verbose: bool) -> Result<()> {
    let source = match args.input {
        Some(path) => LoadSource::Path(path),
        None if io::stdin().is_terminal() => {
            let what = "Standard input is a terminal, not an image";
            return Err(Error::new(ErrorKind::InvalidSpec, what)
                .hint("Name a file with `-i`, or pipe an archive in"));
        }
        None => LoadSource::Reader(Box::new(io::stdin())),
    };
    let platform = args.platform.unwrap_or_else(Platform::host);
    let bars = Bars::new(args.quiet, verbose);
    let loaded = coffer.images().load(source, &platform, &bars)?;
    bars.finish();
    if args.json {
        let loaded = loaded.iter().map(|loaded| {
            json!({
                "id": loaded.image.id,
                "manifest": loaded.image.manifest,
                "platform": loaded.image.platform,
                "references": loaded.references,
            })
        });
        output::json(&loaded.collect::<Vec<_>>());
        return Ok(());
    }
    for image in loaded {
        if image.references.is_empty() {
            output::line(format_args!("Loaded image ID: {}", image.image.id));
        }
        for name in image.references {
            output::line(format_args!("Loaded image: {}", familiar(&name)));
        }
    }
    Ok(())
}

/// Saves images.
pub(crate) fn save(coffer: &Coffer, args: &SaveArgs) -> ExitStatus {
    let format = if args.format == "oci" {
        SaveFormat::Oci
    } else {
        SaveFormat::Docker
    };
    write_to(args.output.as_deref(), Rights::Common, |mut output| {
        coffer.images().save(&args.images, format, &mut output)
    })
    .unwrap_or_else(ExitStatus::Error)
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
            Ok(removed) => print_removed(&removed),
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

/// Prints what a removal removed, as Docker does.
pub(crate) fn print_removed(removed: &Removed) {
    for name in &removed.untagged {
        output::line(format_args!("Untagged: {}", familiar(name)));
    }
    for digest in &removed.deleted {
        output::line(format_args!("Deleted: {digest}"));
    }
}

/// Longest step that a row shows, in characters.
const STEP_CHARS: usize = 45;

/// Shows how an image was made.
pub(crate) fn history(coffer: &Coffer, args: &HistoryArgs) -> ExitStatus {
    status(steps(coffer, args))
}

fn steps(coffer: &Coffer, args: &HistoryArgs) -> Result<()> {
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    let steps = coffer.images().history(&args.image)?;
    if matches!(format, Format::Json) {
        output::json(&steps);
        return Ok(());
    }
    let step_id = |step: &HistoryEntry| {
        let digest = step.id.as_ref();
        digest.map_or_else(|| "<missing>".to_owned(), |d| id(d, args.no_trunc))
    };
    if args.quiet {
        // A closed pipe ends the list.
        let _ = steps.iter().all(|step| output::line(step_id(step)));
        return Ok(());
    }
    let now = cofferdam::unix_time_ns();
    if let Format::Rows { template, header } = &format {
        let fields = |step: &HistoryEntry| {
            json!({
                "ID": step_id(step),
                "CreatedSince": created(step.created.as_deref(), now),
                "CreatedAt": step.created.as_deref().map_or_else(|| "N/A".to_owned(), output::printable),
                "CreatedBy": shortened(&step.created_by, args.no_trunc),
                "Size": output::size(step.size_bytes),
                "Comment": output::printable(&step.comment),
            })
        };
        return print_fields(template, *header, steps.iter().map(fields).collect());
    }
    let row = |step: &HistoryEntry| {
        vec![
            step_id(step),
            created(step.created.as_deref(), now),
            shortened(&step.created_by, args.no_trunc),
            output::size(step.size_bytes),
            output::printable(&step.comment),
        ]
    };
    let rows: Vec<_> = steps.iter().map(row).collect();
    let header = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"];
    output::table(&header, &rows);
    Ok(())
}

fn shortened(text: &str, whole: bool) -> String {
    let text = output::printable(text);
    if whole || text.chars().count() <= STEP_CHARS {
        return text;
    }
    text.chars().take(STEP_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_people_write_them() {
        for (name, repository, tag) in [
            ("docker.io/library/debian:12", "debian", "12"),
            ("docker.io/me/tool:1", "me/tool", "1"),
            ("localhost:5000/x:1", "localhost:5000/x", "1"),
        ] {
            let (found, found_tag) = split(name);
            assert_eq!((found.as_str(), found_tag.as_str()), (repository, tag));
        }
    }

    #[test]
    fn a_repository_alone_means_every_tag_of_it() {
        let name = "docker.io/library/debian:12";
        for wanted in ["debian", "debian:12", "docker.io/library/debian"] {
            assert!(matches(name, wanted), "{wanted}");
        }
        for wanted in [
            "debian:11",
            "deb",
            "me/debian",
            "localhost:5000/debian",
            "A B",
        ] {
            assert!(!matches(name, wanted), "{wanted}");
        }
        assert!(matches("localhost:5000/x:1", "localhost:5000/x"));
    }

    #[test]
    fn an_image_that_tells_no_time_of_its_making_is_listed_all_the_same() {
        assert_eq!(created(None, 0), "N/A");
        assert_eq!(created(Some("yesterday"), 0), "N/A");
        assert_eq!(
            created(Some("1970-01-01T00:00:00Z"), 0),
            "Less than a second ago"
        );
    }
}
