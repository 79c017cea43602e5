//! From a sandbox's record to a running workload.
//!
//! Normally a fork: the machine comes from the image's template, or from the base template and
//! mounts the root itself. The base template is made first if there is none; it takes hardly
//! longer than a boot. Only when templates cannot be kept does the machine boot for itself.

use std::{sync::Arc, time::Duration};

use cofferdam_backend::{Backend, Machine, MachineSpec, SnapshotFiles};
use cofferdam_base::time::unix_time_ns;
use cofferdam_proto::{
    CLIENT_GENERATION, ClientRequest, IdentityCause, Request, Stage, StartMode, TerminalSize,
};
use cofferdam_types::{SandboxSpec, UpperSpec};

use super::{
    AgentLink,
    handshake::{Clock, resume_workload, start_workload, workload_limits},
    log_line,
};
use crate::{
    error::{Error, ErrorKind, Result, lift},
    guest::{self, GuestFiles},
    layout::{Layout, SandboxPaths},
    pool::Standby,
    snapshot::resume::Resume,
    store::{Entry, RecordedImage, Store},
    template::{self, MachineShape, Recording, RootShape, Template, TemplatePlan},
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
        store,
        entry,
        paths,
        terminal,
    } = of;
    let mut clock = Clock::new();
    let record = &entry.record;
    let backend = crate::host::backend(layout, record.spec.backend.as_deref())?;
    let guest = guest::find(layout, record.spec.kernel.as_deref())?;
    let shape = MachineShape::of(&record.spec, record.image.disk_bytes);
    crate::room::check_memory(shape.memory_mib)?;
    layout.make_sockets(paths)?;
    clock.lap("prepare");

    let origin = choose_origin(
        layout,
        backend.as_ref(),
        &guest,
        entry,
        paths,
        &shape,
        &mut clock,
    )
    .await?;
    let spec = machine_spec(entry, paths, &guest, &shape);
    read_ahead(&origin);
    let machine: Arc<dyn Machine> = match &origin {
        Origin::Resume(files, _) => lift(backend.restore(files, &spec).await)?.into(),
        Origin::Image(template) | Origin::Base(template) | Origin::Workload(template) => {
            lift(backend.restore(&template.files(), &spec).await)?.into()
        }
        Origin::Boot => lift(backend.start(&spec).await)?.into(),
    };
    clock.lap("machine");
    record_machine(store, entry, machine.as_ref(), backend.name())?;
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    let limit = if matches!(origin, Origin::Boot) {
        template::BOOT_TIMEOUT
    } else {
        RESTORE_TIMEOUT
    };
    let spec_hook = record.spec.on_fork.as_deref();
    let handshake = async {
        agent.ready(limit).await?;
        clock.lap("guest ready");
        match &origin {
            Origin::Resume(_, cause) => {
                resume_workload(&mut agent, entry, *cause, spec_hook, &mut clock).await?;
                Resume::clear(paths)
            }
            Origin::Workload(template) => {
                let held = template.on_fork()?;
                let hook = spec_hook.or(held.as_deref());
                let cause = IdentityCause::Template;
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
    let recording = origin.template().and_then(Template::recording);
    let wanted_template = origin.wants_template(&record.spec, &record.image, guest, shape);
    Ok(Live {
        machine,
        agent,
        backend: backend.name(),
        timeline: clock.stages,
        started_ns: unix_time_ns(),
        wanted_template,
        recording,
        pool: None,
    })
}

/// Where a machine comes from.
enum Origin {
    /// Another sandbox's moment, or its own from a snapshot.
    Resume(SnapshotFiles, IdentityCause),
    /// A template with this very workload running.
    Workload(Template),
    Image(Template),
    Base(Template),
    Boot,
}

impl Origin {
    fn template(&self) -> Option<&Template> {
        match self {
            Self::Workload(template) | Self::Image(template) | Self::Base(template) => {
                Some(template)
            }
            Self::Resume(..) | Self::Boot => None,
        }
    }

    /// What would have made this start a quicker one.
    fn wants_template(
        &self,
        spec: &SandboxSpec,
        image: &RecordedImage,
        guest: GuestFiles,
        shape: MachineShape,
    ) -> Option<WantedTemplate> {
        if matches!(self, Self::Workload(_) | Self::Image(_) | Self::Resume(..)) {
            return None;
        }
        let root = RootShape::of(spec, image.manifest)?;
        let plan = TemplatePlan {
            shape,
            root,
            rootfs: image.rootfs.clone(),
            image_name: image.name.clone(),
            warm_ups: Vec::new(),
            workload: None,
            limit: template::DEFAULT_TIMEOUT,
            rehearsals: image.rehearsals.clone(),
        };
        Some(WantedTemplate { guest, plan })
    }
}

/// Has what the guest will touch read from the disk while QEMU starts: after a reboot it comes in
/// one stream then and not page by page as the guest touches it. Where that is not known, all
/// that the guest remembers; on fast disks that gains nothing, on slow ones seeks. See
/// `docs/start.md`.
fn read_ahead(origin: &Origin) {
    let (memory, template) = match origin {
        Origin::Resume(files, _) => (files.memory.clone(), None),
        Origin::Workload(template) | Origin::Image(template) | Origin::Base(template) => {
            (template.files().memory, Some(template.clone()))
        }
        Origin::Boot => return,
    };
    tokio::task::spawn_blocking(move || {
        let wanted = template.and_then(|template| template.working_set());
        // What cannot be read is the backend's to tell; nothing waits for this.
        drop(cofferdam_disk::read_ahead(&memory, wanted.as_deref()));
    });
}

/// Finds the best template and makes the upper that goes with it.
async fn choose_origin(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    entry: &Entry,
    paths: &SandboxPaths,
    shape: &MachineShape,
    clock: &mut Clock,
) -> Result<Origin> {
    let spec = &entry.record.spec;
    let read_only = spec.upper == UpperSpec::ReadOnly;
    let upper = paths.upper();
    if let Some(mut resume) = Resume::read(paths)? {
        resume.begin(paths)?;
        clock.lap("snapshot");
        return Ok(Origin::Resume(resume.files(), resume.cause()));
    }
    // A sandbox that has run before has a disk of its own, which no image template's guest knows.
    let fresh = !upper.exists();
    if fresh && let Some(root) = RootShape::of(spec, entry.record.image.manifest) {
        let compatibility = lift(backend.compatibility_key())?;
        let (process, limits) = (&entry.record.process, workload_limits(spec));
        let (running, _) =
            template::workload_key(guest, &compatibility, shape, &root, process, &limits);
        if let Some(found) = Template::find(layout, &running) {
            lift(cofferdam_disk::copy_sparse(&found.upper(), &upper))?;
            clock.lap("workload template");
            return Ok(Origin::Workload(found));
        }
        let (key, _) = template::image_key(guest, &compatibility, shape, &root);
        if let Some(found) = Template::find(layout, &key) {
            lift(cofferdam_disk::copy_sparse(&found.upper(), &upper))?;
            clock.lap("image template");
            return Ok(Origin::Image(found));
        }
    }
    if fresh {
        crate::uppers::make(layout, shape.upper_bytes, read_only, &upper)?;
    }
    let base = template::ensure_base(layout, backend, guest, shape).await;
    clock.lap("base template");
    match base {
        Ok(base) => Ok(Origin::Base(base)),
        // Without room for a template a machine can still boot for itself.
        Err(error) if error.kind() == ErrorKind::NoSpace => {
            log_line(&format!("No template: {}", error.chain()));
            Ok(Origin::Boot)
        }
        Err(error) => Err(error),
    }
}

fn machine_spec(
    entry: &Entry,
    paths: &SandboxPaths,
    guest: &GuestFiles,
    shape: &MachineShape,
) -> MachineSpec {
    let record = &entry.record;
    MachineSpec {
        console_log: paths.console(),
        vmm_log: paths.vmm(),
        run_dir: paths.run.clone(),
        labels: record.spec.labels.clone(),
        limits: workload_limits(&record.spec),
        ..template::machine_spec(
            record.id,
            guest,
            shape,
            record.image.rootfs.clone(),
            paths.upper(),
        )
    }
}
