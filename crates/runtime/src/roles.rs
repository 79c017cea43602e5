//! The roles of the program that no user types: supervisor, template builder, standby, filler of a
//! pool, KVM probe.

use std::{ffi::OsString, path::Path};

use cofferdam_types::SandboxId;
use tokio::sync::mpsc;

use crate::{
    base::{
        error::{Error, ErrorKind, Result},
        task::{block_on, log_line},
    },
    host,
    pool::{self, ForLaterStarts},
    start,
    store::{
        layout::Layout,
        program::{BUILD_TEMPLATE, FILL_POOL, PROBE_KVM, STAND_BY, SUPERVISE},
    },
    supervisor::{self, AfterStart, Client, Duty, Event, Starting},
    template,
};

/// Runs the role that the program's arguments name, if they name one; returns its exit code.
///
/// Called first thing in `coffer`'s `main`.
#[must_use]
pub fn run_role(args: &[std::ffi::OsString]) -> Option<u8> {
    match args.get(1)?.to_str()? {
        SUPERVISE => Some(supervise_main(args.get(2..)?)),
        BUILD_TEMPLATE => Some(template::build_main()),
        STAND_BY => Some(pool::standby_main(args.get(2..)?)),
        FILL_POOL => Some(pool::fill_main(args.get(2..)?)),
        PROBE_KVM => Some(host::probe_main()),
        _ => None,
    }
}

/// `main` of a supervisor: home and id of the sandbox; returns the exit code.
fn supervise_main(args: &[OsString]) -> u8 {
    let _ = rustix::process::setsid();
    let result = parse_args(args).and_then(|(layout, id)| block_on(supervise(layout, id))?);
    match result {
        Ok(()) => 0,
        Err(error) => {
            log_line(&error.chain());
            1
        }
    }
}

fn parse_args(args: &[OsString]) -> Result<(Layout, SandboxId)> {
    let bad = || Error::new(ErrorKind::Bug, "A supervisor wants a home and an id");
    let [home, id] = args else { return Err(bad()) };
    let id = id.to_str().and_then(|id| id.parse().ok()).ok_or_else(bad)?;
    Ok((Layout::at(Path::new(home))?, id))
}

async fn supervise(layout: Layout, id: SandboxId) -> Result<()> {
    let (events, queue) = supervisor::queue();
    let client = supervisor::accept_first(&events)?;
    supervise_for(layout, id, client, events, queue).await
}

/// Works for a sandbox until its end; `client` is its first client.
pub(crate) async fn supervise_for(
    layout: Layout,
    id: SandboxId,
    client: Client,
    events: mpsc::Sender<Event>,
    mut queue: mpsc::Receiver<Event>,
) -> Result<()> {
    let Some(request) = supervisor::first_request(&mut queue).await else {
        return Ok(());
    };
    let duty = Duty {
        layout,
        id,
        request,
    };
    let bring_up = async |of: Starting<'_>| {
        let (live, templates) = start::start(of).await?;
        let after: Box<dyn AfterStart> =
            Box::new(ForLaterStarts::new(of.entry, live.backend, templates, None));
        Ok((live, after))
    };
    supervisor::serve(duty, client, events, queue, bring_up).await
}
