//! From a sandbox's record to a running workload.
//!
//! Normally a fork: the machine comes from the image's template, or from the base template and
//! mounts the root itself. The base template is made first if there is none; it takes hardly
//! longer than a boot. When no template can be had the machine boots for itself; see `origin`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cofferdam_backend::{Backend, Machine, MachineSpec};
use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{HostMessage, IdentityCause, SESSION_STREAM};

use super::{
    network::network,
    origin::{Origin, StartMethods, WantedTemplate, machine_spec, read_ahead},
    setup::guest_setup,
};
use crate::{
    base::error::{Result, lift},
    host::{compatibility::machine_key, guest, needs},
    link::{AgentLink, Clock, GuestSetup, resume_workload, start_workload},
    network::Network,
    store::{layout::SandboxPaths, resume::Resume},
    supervisor::{Live, Starting},
    template::{self, MachineShape, Recording, Template},
};

/// How long a restored guest may take to answer. It was ready when it was captured, so even a
/// busy host needs a fraction of this.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);

/// What templates want of a start.
#[derive(Debug, Default)]
pub(crate) struct ForTemplates {
    /// What an image template would be made from; absent when there is one or none fits.
    pub(crate) wanted: Option<WantedTemplate>,
    /// What the machine's template wants to know about its start.
    pub(crate) recording: Option<Recording>,
}

/// Brings the machine of a sandbox up and has its workload run.
///
/// # Errors
/// Why it cannot run; no machine is left.
pub(crate) async fn start(of: Starting<'_>) -> Result<(Live, ForTemplates)> {
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
    crate::host::room::check_memory(shape.memory_mib)?;
    needs::expect(backend.as_ref(), shape.needs())?;
    clock.lap("prepare");

    let spec = machine_spec(of, &guest, &shape);
    let mut methods = StartMethods::new(of, backend.as_ref(), &guest, &shape);
    if of.standby_was_silent {
        let note = "A standby did not answer in time, and is replaced";
        // The client adds the stage.
        methods.notes.push(note.to_owned());
    }
    let (origin, machine, mut agent, read_ahead, disk_made) = loop {
        let origin = methods.choose(&mut clock).await?;
        let reading = read_ahead(&origin);
        let disk_made = disk_made(&origin, paths);
        match bring_machine(of, backend.as_ref(), &origin, &spec, &mut clock).await {
            Ok((machine, agent)) => break (origin, machine, agent, reading, disk_made),
            Err(error) => methods.give_up(&origin, error, &mut clock)?,
        }
    };
    let (network, of_guest) = network(of, machine.as_ref())?;
    let trust = network.as_ref().and_then(Network::certificate);
    let setup = GuestSetup {
        trust: trust.map(str::to_owned),
        ..guest_setup(record, of_guest)
    };
    let spec_hook = record.spec.on_fork.as_deref();
    let handshake = async {
        match &origin {
            Origin::Resume(_, cause) => {
                resume_workload(&mut agent, &setup, *cause, spec_hook, &mut clock).await?;
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
                resume_workload(&mut agent, &setup, cause, hook, &mut clock).await
            }
            Origin::Image(_) => {
                start_workload(&mut agent, &setup, terminal, true, &mut clock).await
            }
            Origin::Base(_) | Origin::Boot => {
                start_workload(&mut agent, &setup, terminal, false, &mut clock).await
            }
        }
    };
    if let Err(error) = handshake.await {
        return Err(crate::host::diagnosis::explain(
            backend.as_ref(),
            machine.as_ref(),
            &spec,
            error,
        ));
    }
    methods.came_up(&origin, agent.take_notes(), &mut clock);
    let templates = ForTemplates {
        wanted: methods.wanted_template(&origin),
        recording: origin.template().and_then(Template::recording),
    };
    let live = Live {
        machine,
        agent,
        backend: backend.name(),
        timeline: clock.stages,
        started_ns: unix_time_ns(),
        machine_key: machine_key(backend.as_ref(), &guest)?,
        degraded: methods.notes,
        disk_made,
        network,
        read_ahead,
    };
    Ok((live, templates))
}

/// See [`Live::disk_made`].
fn disk_made(origin: &Origin, paths: &SandboxPaths) -> Option<SystemTime> {
    match origin {
        Origin::Image(_) | Origin::Base(_) => {
            let meta = std::fs::metadata(paths.upper());
            meta.and_then(|meta| meta.modified()).ok()
        }
        Origin::Resume(..) | Origin::Workload(_) | Origin::Boot => None,
    }
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
    let machine: Arc<dyn Machine> = match origin {
        Origin::Resume(files, _) => lift(backend.restore(files, spec).await)?.into(),
        Origin::Image(template) | Origin::Base(template) | Origin::Workload(template) => {
            lift(backend.restore(&template.files(), spec).await)?.into()
        }
        Origin::Boot => lift(backend.start(spec).await)?.into(),
    };
    clock.lap("machine");
    of.record_machine(machine.as_ref(), backend.name())?;
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
            let explained = crate::host::diagnosis::explain(backend, machine.as_ref(), spec, error);
            // The first error is the one to report. It lets go of its disks before others take them.
            let _ = machine.kill().await;
            Err(explained)
        }
    }
}
