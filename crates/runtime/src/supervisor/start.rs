//! From a sandbox's record to a running workload.
//!
//! Normally a fork: the machine comes from the image's template, or from the base template and
//! mounts the root itself. The base template is made first if there is none; it takes hardly
//! longer than a boot. When no template can be had the machine boots for itself; see `origin`.

use std::{sync::Arc, time::Duration};

use cofferdam_backend::{Backend, Machine, MachineSpec};
use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{
    CLIENT_GENERATION, ClientRequest, HostMessage, IdentityCause, Request, SESSION_STREAM, Stage,
    StartMode, TerminalSize,
};

use super::{
    AgentLink,
    handshake::{Clock, resume_workload, start_workload},
    origin::{Origin, Ways, machine_spec, read_ahead},
};
use crate::{
    error::{Error, ErrorKind, Result, lift},
    guest::{self, GuestFiles},
    layout::{Layout, SandboxPaths},
    pool::Standby,
    snapshot::{fit, resume::Resume},
    store::{Entry, Store},
    template::{self, MachineShape, Recording, Template, TemplatePlan},
};

/// How long a restored guest may take to answer. It was ready when it was captured, so even a
/// busy host needs a fraction of this.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the first client wants besides the start.
pub(super) fn mode_of(request: &ClientRequest) -> Result<StartMode> {
    match request.request {
        _ if request.generation != CLIENT_GENERATION => Err(other_generation()),
        Request::Start(mode) | Request::Claim { mode, .. } => Ok(mode),
        _ => Err(Error::new(
            ErrorKind::Bug,
            "A supervisor starts with a start",
        )),
    }
}

pub(crate) fn other_generation() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "The sandbox was started by another version of Cofferdam",
    )
    .hint("Stop it with that version, or remove it with `coffer rm -f`")
}

/// A sandbox that runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) agent: AgentLink,
    pub(crate) backend: &'static str,
    pub(crate) timeline: Vec<Stage>,
    pub(crate) started_ns: u64,
    /// What an image template would be made from; absent when there is one or none fits.
    pub(crate) wanted_template: Option<WantedTemplate>,
    /// What its template wants to know about its start.
    pub(crate) recording: Option<Recording>,
    /// The pool that the machine came from.
    pub(crate) pool: Option<String>,
    /// What a machine must have in common with this one to go on from a capture of it.
    pub(crate) machine_key: String,
    /// What went wrong with quicker ways to start, one sentence each.
    pub(crate) degraded: Vec<String>,
}

/// An image template to make.
#[derive(Debug)]
pub(crate) struct WantedTemplate {
    pub(crate) guest: GuestFiles,
    pub(crate) plan: TemplatePlan,
}

/// A sandbox that is being started.
#[derive(Clone, Copy)]
pub(super) struct Starting<'a> {
    pub(super) layout: &'a Layout,
    pub(super) store: &'a Store,
    pub(super) entry: &'a Entry,
    pub(super) paths: &'a SandboxPaths,
    /// Size of the terminal of the client that starts it.
    pub(super) terminal: Option<TerminalSize>,
}

/// Has a standby's machine become the sandbox's.
pub(super) async fn claim(of: Starting<'_>, standby: Standby) -> Result<Live> {
    let Starting {
        store,
        entry,
        paths,
        terminal,
        ..
    } = of;
    let mut clock = Clock::new();
    let pool = standby.hand_over(paths)?;
    record_machine(store, entry, standby.machine.as_ref(), standby.backend)?;
    clock.lap("standby");
    let Standby {
        machine,
        mut agent,
        backend,
        machine_key,
        ..
    } = standby;
    start_workload(&mut agent, entry, terminal, true, &mut clock).await?;
    Ok(Live {
        machine,
        agent,
        backend,
        timeline: clock.stages,
        started_ns: unix_time_ns(),
        wanted_template: None,
        recording: None,
        pool: Some(pool),
        machine_key,
        degraded: Vec::new(),
    })
}

fn record_machine(
    store: &Store,
    entry: &Entry,
    machine: &dyn Machine,
    backend: &str,
) -> Result<()> {
    let mut state = entry.state.clone();
    state.machine_pid = Some(machine.pid());
    state.backend = Some(backend.to_owned());
    store.set_state(entry.record.id, &state)
}

pub(super) async fn start(of: Starting<'_>) -> Result<Live> {
    let Starting {
        layout,
        entry,
        paths,
        terminal,
        ..
    } = of;
    let mut clock = Clock::new();
    let record = &entry.record;
    let backend = crate::host::backend(layout, record.spec.backend.as_deref())?;
    let guest = guest::find(layout, record.spec.kernel.as_deref())?;
    let shape = MachineShape::of(&record.spec, record.image.disk_bytes);
    crate::room::check_memory(shape.memory_mib)?;
    clock.lap("prepare");

    let spec = machine_spec(of, &guest, &shape);
    let mut ways = Ways::new(of, backend.as_ref(), &guest, &shape);
    let (origin, machine, mut agent) = loop {
        let origin = ways.choose(&mut clock).await?;
        match bring_machine(of, backend.as_ref(), &origin, &spec, &mut clock).await {
            Ok((machine, agent)) => break (origin, machine, agent),
            Err(error) => ways.give_up(&origin, error, &mut clock)?,
        }
    };
    let spec_hook = record.spec.on_fork.as_deref();
    let handshake = async {
        match &origin {
            Origin::Resume(_, cause) => {
                resume_workload(&mut agent, entry, *cause, spec_hook, &mut clock).await?;
                Resume::clear(paths)
            }
            Origin::Workload(template) => {
                let held = template.on_fork()?;
                let hook = spec_hook.or(held.as_deref());
                let cause = IdentityCause::Template;
                if let Some(size) = terminal {
                    // Its processes are frozen: they find the new size when they go on.
                    let resize = HostMessage::Resize(size);
                    agent.send(&[(SESSION_STREAM, resize)]).await?;
                }
                resume_workload(&mut agent, entry, cause, hook, &mut clock).await
            }
            Origin::Image(_) => start_workload(&mut agent, entry, terminal, true, &mut clock).await,
            Origin::Base(_) | Origin::Boot => {
                start_workload(&mut agent, entry, terminal, false, &mut clock).await
            }
        }
    };
    if let Err(error) = handshake.await {
        return Err(crate::diagnosis::explain(machine.as_ref(), &spec, error));
    }
    Ok(Live {
        machine,
        agent,
        backend: backend.name(),
        timeline: clock.stages,
        started_ns: unix_time_ns(),
        wanted_template: ways.wanted_template(&origin),
        recording: origin.template().and_then(Template::recording),
        pool: None,
        machine_key: fit::machine_key(backend.as_ref(), &guest)?,
        degraded: ways.notes,
    })
}

/// A machine from `origin` whose agent is ready. No process of the user runs yet, so that another
/// machine can take its place. After a failure this one is gone.
async fn bring_machine(
    of: Starting<'_>,
    backend: &dyn Backend,
    origin: &Origin,
    spec: &MachineSpec,
    clock: &mut Clock,
) -> Result<(Arc<dyn Machine>, AgentLink)> {
    read_ahead(origin);
    let machine: Arc<dyn Machine> = match origin {
        Origin::Resume(files, _) => lift(backend.restore(files, spec).await)?.into(),
        Origin::Image(template) | Origin::Base(template) | Origin::Workload(template) => {
            lift(backend.restore(&template.files(), spec).await)?.into()
        }
        Origin::Boot => lift(backend.start(spec).await)?.into(),
    };
    clock.lap("machine");
    record_machine(of.store, of.entry, machine.as_ref(), backend.name())?;
    let limit = if matches!(origin, Origin::Boot) {
        template::BOOT_TIMEOUT
    } else {
        RESTORE_TIMEOUT
    };
    let ready = async {
        let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
        agent.ready(limit).await.map(|()| agent)
    };
    match ready.await {
        Ok(agent) => {
            clock.lap("guest ready");
            Ok((machine, agent))
        }
        Err(error) => {
            let explained = crate::diagnosis::explain(machine.as_ref(), spec, error);
            // The first error is the one to report. It lets go of its disks before others take them.
            let _ = machine.kill().await;
            Err(explained)
        }
    }
}
