//! `inspect`, of sandboxes and images.

use cofferdam::{Coffer, ErrorKind, ImageDetails, Result, SandboxInfo, SandboxNetwork};
use serde_json::Value;

use super::docker_names;
use crate::{
    args::{ImageInspectArgs, InspectArgs, InspectKind},
    exit_status::ExitStatus,
    format,
    go_template::Template,
    output,
};

/// Prints an array of what was found; fails at the end when a name was not.
pub(crate) fn inspect(coffer: &Coffer, args: &InspectArgs) -> ExitStatus {
    print(coffer, &args.names, args.format.as_deref(), args.r#type)
}

fn print(
    coffer: &Coffer,
    names: &[String],
    format: Option<&str>,
    kind: Option<InspectKind>,
) -> ExitStatus {
    let text = format.filter(|text| !matches!(*text, "" | "json"));
    let template = match text.map(Template::parse) {
        None => None,
        Some(Ok(template)) => Some(template),
        Some(Err(error)) => return ExitStatus::Error(format::refused(&error, &[])),
    };
    match template {
        None => all(names, |name| {
            one(coffer, name, kind).map(|found| found.ours)
        }),
        Some(template) => each(names, |name| {
            let found = one(coffer, name, kind)?;
            format::render(&template, &found.ours, &found.dockers)
        }),
    }
}

/// What was found, by our names and by Docker's.
struct Found {
    ours: Value,
    dockers: Value,
}

impl Found {
    /// Docker's `State` is in both: scripts read it from the JSON too.
    fn sandbox(info: &SandboxInfo, networks: &[SandboxNetwork]) -> Self {
        let mut dockers = docker_names::sandbox(info);
        docker_names::add_networks(&mut dockers, networks);
        let mut ours = to_value(info);
        ours["State"] = dockers["State"].clone();
        if !networks.is_empty() {
            ours["networks"] = serde_json::json!(networks);
        }
        Self { ours, dockers }
    }

    /// Images have Docker's names here too.
    fn image(details: &ImageDetails) -> Self {
        let ours = to_value(details);
        Self {
            dockers: ours.clone(),
            ours,
        }
    }
}

/// Prints a line for each; fails at the end when a name was not found.
fn each(names: &[String], one: impl Fn(&str) -> Result<String>) -> ExitStatus {
    let mut failed = false;
    for name in names {
        match one(name) {
            Ok(line) => {
                output::line(line);
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

/// Prints all about images.
pub(crate) fn images(coffer: &Coffer, args: &ImageInspectArgs) -> ExitStatus {
    let kind = Some(InspectKind::Image);
    print(coffer, &args.images, args.format.as_deref(), kind)
}

fn all(names: &[String], one: impl Fn(&str) -> Result<Value>) -> ExitStatus {
    let mut found = Vec::new();
    let mut failed = false;
    for name in names {
        match one(name) {
            Ok(value) => found.push(value),
            Err(error) => {
                output::error(&error);
                failed = true;
            }
        }
    }
    if !found.is_empty() || !failed {
        output::json(&found);
    }
    if failed {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}

fn one(coffer: &Coffer, name: &str, kind: Option<InspectKind>) -> Result<Found> {
    if kind == Some(InspectKind::Image) {
        return coffer
            .images()
            .inspect(name)
            .map(|image| Found::image(&image));
    }
    let not_found = match coffer.sandbox(name).and_then(|sandbox| sandbox.info()) {
        Ok(info) => {
            // A sandbox can be inspected also where a file of its networks cannot be read.
            let networks = coffer.networks().of_sandbox(info.id).unwrap_or_default();
            return Ok(Found::sandbox(&info, &networks));
        }
        Err(error) if error.kind() == ErrorKind::NotFound && kind.is_none() => error,
        Err(error) => return Err(error),
    };
    match coffer.images().inspect(name) {
        Ok(details) => Ok(Found::image(&details)),
        // The name of neither: a sandbox is what most people mean.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ImageNotFound | ErrorKind::InvalidSpec
            ) =>
        {
            Err(not_found)
        }
        Err(error) => Err(error),
    }
}

fn to_value(value: &impl serde::Serialize) -> Value {
    // Plain data with string keys always becomes JSON.
    serde_json::to_value(value).unwrap_or(Value::Null)
}
