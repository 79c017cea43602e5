//! The process that makes an image's template while the sandbox goes on.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use super::{build::make_image, plan::TemplatePlan};
use crate::{
    error::{Error, ErrorKind, Result, io},
    guest::GuestFiles,
    layout::Layout,
};

/// Everything that a template builder needs; JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    home: PathBuf,
    backend: String,
    kernel: PathBuf,
    plan: TemplatePlan,
}

/// Starts a process that makes an image's template.
pub(crate) fn spawn_image_build(
    layout: &Layout,
    backend: &str,
    guest: &GuestFiles,
    plan: &TemplatePlan,
) -> Result<()> {
    let order = Order {
        home: layout.home().to_owned(),
        backend: backend.to_owned(),
        kernel: guest.kernel.clone(),
        plan: plan.clone(),
    };
    let input = serde_json::to_vec(&order).map_err(|error| {
        Error::new(ErrorKind::Bug, "Could not describe a template").because(error)
    })?;
    let log = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(layout.templates().join("build.log"))
        .map_err(|error| io("Could not open the template builder's log", error))?;
    let mut child = Command::new(crate::program::path()?)
        .arg(crate::program::BUILD_TEMPLATE)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| io("Could not start the template builder", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        use std::io::Write as _;
        // The description is smaller than a pipe, so this never waits.
        stdin
            .write_all(&input)
            .map_err(|error| io("Could not talk to the template builder", error))?;
    }
    Ok(())
}

/// `main` of a template builder; returns the exit code.
pub(crate) fn build_main() -> u8 {
    // A builder works in the background of everything else, and on its own.
    let _ = rustix::process::setsid();
    let _ = rustix::process::nice(10);
    let run = || -> Result<()> {
        let order: Order = serde_json::from_reader(std::io::stdin().lock()).map_err(|error| {
            Error::new(ErrorKind::Bug, "Could not read the template's description").because(error)
        })?;
        let layout = Layout::at(&order.home)?;
        let guest = crate::guest::find(&layout, order.kernel.to_str())?;
        let backend = crate::host::backend(&layout, Some(&order.backend))?;
        let made = make_image(&layout, backend.as_ref(), &guest, &order.plan, false);
        crate::supervisor::block_on(made)?.map(drop)
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            crate::supervisor::log_line(&error.chain());
            1
        }
    }
}
