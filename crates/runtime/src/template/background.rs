//! The process that makes an image's template: in the background while a sandbox goes on, or for
//! a client that waits. Only the program has the guest's agent in it; one that uses the library
//! has not.

use std::{path::PathBuf, process::Stdio};

use serde::{Deserialize, Serialize};

use super::{Template, TemplateInfo, build::make_image, plan::TemplatePlan};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, to_remote},
        reap::reap_in_background,
    },
    host::guest::GuestFiles,
    store::{Failure, layout::Layout},
};

/// Everything that a template builder needs; JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    home: PathBuf,
    backend: String,
    kernel: PathBuf,
    plan: TemplatePlan,
    /// The client that waits, by its process id: then also where there is one already, with the
    /// outcome on standard output, and no longer than that client lives.
    client: Option<u32>,
}

/// What a builder answers a client.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Made(TemplateInfo),
    Failed(Failure),
}

/// Starts a process that makes an image's template.
pub(crate) fn spawn_image_build(
    layout: &Layout,
    backend: &str,
    guest: &GuestFiles,
    plan: &TemplatePlan,
) -> Result<()> {
    #[cfg(test)]
    if layout
        .backends()
        .takes_order(|| format!("template {}", plan.image_name))
    {
        return Ok(());
    }
    let order = Order {
        home: layout.home().to_owned(),
        backend: backend.to_owned(),
        kernel: guest.kernel.clone(),
        plan: plan.clone(),
        client: None,
    };
    let input = serde_json::to_vec(&order).map_err(|error| {
        Error::new(ErrorKind::Bug, "Could not describe a template").because(error)
    })?;
    let log = open_log(layout)?;
    let mut child = crate::store::program::command(layout, crate::store::program::BUILD_TEMPLATE)?
        // For whoever looks at the processes of a store.
        .arg(layout.home())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| io("Could not start the template builder", error))?;
    let stdin = child.stdin.take();
    reap_in_background(child);
    if let Some(mut stdin) = stdin {
        use std::io::Write as _;
        // The description is smaller than a pipe, so this never waits.
        stdin
            .write_all(&input)
            .map_err(|error| io("Could not talk to the template builder", error))?;
    }
    Ok(())
}

/// The log of the template builders; the last one's.
fn open_log(layout: &Layout) -> Result<std::fs::File> {
    std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(layout.templates().join("build.log"))
        .map_err(|error| io("Could not open the template builder's log", error))
}

/// Has a process make an image's template and waits for it. It ends with this one's terminal.
///
/// # Errors
/// What it failed with.
pub(crate) async fn build_and_wait(
    layout: &Layout,
    backend: &str,
    kernel: Option<&str>,
    plan: TemplatePlan,
) -> Result<TemplateInfo> {
    let order = Order {
        home: layout.home().to_owned(),
        backend: backend.to_owned(),
        kernel: crate::host::guest::find_kernel(layout, kernel)?,
        plan,
        client: Some(std::process::id()),
    };
    let lost = |error| io("Could not run the template builder", error);
    // The client words the outcome; how it came about is in the log.
    let log = open_log(layout)?;
    let layout = layout.clone();
    let work = move || -> Result<Vec<u8>> {
        let mut child =
            crate::store::program::command(&layout, crate::store::program::BUILD_TEMPLATE)?
                // For whoever looks at the processes of a store.
                .arg(&order.home)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .map_err(lost)?;
        if let Some(stdin) = child.stdin.take() {
            serde_json::to_writer(stdin, &order).map_err(|error| lost(error.into()))?;
        }
        Ok(child.wait_with_output().map_err(lost)?.stdout)
    };
    let output = tokio::task::spawn_blocking(work).await;
    let output =
        output.map_err(|error| Error::new(ErrorKind::Bug, "A task was lost").because(error))??;
    match serde_json::from_slice(&output) {
        Ok(Answer::Made(info)) => Ok(info),
        Ok(Answer::Failed(failure)) => Err(failure.into_error()),
        Err(error) => {
            Err(Error::new(ErrorKind::Bug, "The template builder was lost").because(error))
        }
    }
}

/// `main` of a template builder; returns the exit code.
pub(crate) fn build_main() -> u8 {
    let order: Order = match serde_json::from_reader(std::io::stdin().lock()) {
        Ok(order) => order,
        Err(error) => {
            crate::base::task::log_line(&format!("Could not read an order: {error}"));
            return 1;
        }
    };
    match order.client {
        // It works in the background of everything else, and on its own.
        None => {
            let _ = rustix::process::setsid();
            let _ = rustix::process::nice(10);
        }
        Some(client) if !dies_with(client) => return 1,
        Some(_) => {}
    }
    let result = build(&order);
    if order.client.is_some() {
        let answer = match &result {
            Ok(Some(template)) => template
                .info()
                .map_or_else(|error| failed(&error), Answer::Made),
            Ok(None) => failed(&Error::new(ErrorKind::Bug, "No template was made")),
            Err(error) => failed(error),
        };
        // A client that is gone needs no answer.
        let _ = serde_json::to_writer(std::io::stdout().lock(), &answer);
        return u8::from(matches!(answer, Answer::Failed(_)));
    }
    match result {
        Ok(_) => 0,
        Err(error) => {
            crate::base::task::log_line(&error.chain());
            1
        }
    }
}

/// Has the kernel end this process with its client; false if that is gone already. prctl(2),
/// `PR_SET_PDEATHSIG`: the thread that started this process waits for it.
fn dies_with(client: u32) -> bool {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let set = set_parent_process_death_signal(Some(Signal::KILL));
    let parent = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    set.is_ok() && parent == Some(client)
}

fn failed(error: &Error) -> Answer {
    Answer::Failed(to_remote(error).into())
}

fn build(order: &Order) -> Result<Option<Template>> {
    let layout = Layout::at(&order.home)?;
    let guest = crate::host::guest::find(&layout, order.kernel.to_str())?;
    let backend = crate::host::backend(&layout, Some(&order.backend))?;
    let made = make_image(
        &layout,
        backend.as_ref(),
        &guest,
        &order.plan,
        order.client.is_some(),
    );
    crate::base::task::block_on(made)?
}
