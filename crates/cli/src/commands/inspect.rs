//! `inspect`, of sandboxes and images.

use cofferdam::{Coffer, ErrorKind, Result};
use serde_json::Value;

use crate::{
    args::{InspectArgs, InspectKind},
    exit_status::ExitStatus,
    output,
};

/// Prints an array of what was found; fails at the end when a name was not.
pub(crate) fn inspect(coffer: &Coffer, args: &InspectArgs) -> ExitStatus {
    all(&args.names, |name| one(coffer, name, args.r#type))
}

/// Prints all about images.
pub(crate) fn images(coffer: &Coffer, names: &[String]) -> ExitStatus {
    all(names, |name| one(coffer, name, Some(InspectKind::Image)))
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

fn one(coffer: &Coffer, name: &str, kind: Option<InspectKind>) -> Result<Value> {
    if kind == Some(InspectKind::Image) {
        return coffer.images().inspect(name).map(|image| to_value(&image));
    }
    let not_found = match coffer.sandbox(name).and_then(|sandbox| sandbox.info()) {
        Ok(info) => return Ok(to_value(&info)),
        Err(error) if error.kind() == ErrorKind::NotFound && kind.is_none() => error,
        Err(error) => return Err(error),
    };
    match coffer.images().inspect(name) {
        Ok(details) => Ok(to_value(&details)),
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
