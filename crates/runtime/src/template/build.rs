//! Making templates.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use cofferdam_backend::{Backend, Machine, MachineSpec, MemoryBacking};
use cofferdam_base::{LockFile, fs, time::unix_time_ns};
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, IdentityCause, RootSpec, UpperDevice,
};
use cofferdam_types::{SandboxId, SandboxSpec, Signal};

use super::{
    MachineShape, Manifest, Template, TemplateKind, base_key, failure, files_in, image_key,
    machine::machine_spec,
    plan::{StartedWorkload, TemplatePlan},
    quality::{self, Attempt},
    rehearse::rehearse,
    state_digest, warm, workload_key,
};
use crate::{
    error::{Error, ErrorKind, Result, io, lift},
    guest::GuestFiles,
    layout::Layout,
    random,
    staging::StagingDir,
    supervisor::{AgentLink, adopt},
};

/// How long a guest may take to boot. Emulated on a loaded host it takes seconds; a guest that
/// is silent this long is dead.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a guest may take for a mount or a sync.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The base template for a shape; made now if there is none.
pub(crate) async fn ensure_base(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    shape: &MachineShape,
) -> Result<Template> {
    let (key, about) = base_key(guest, &lift(backend.compatibility_key())?, shape);
    if let Some(template) = Template::find(layout, &key) {
        return Ok(template);
    }
    let _lock = lock(layout, &key).await?;
    // Somebody else may have made it while we waited.
    if let Some(template) = Template::find(layout, &key) {
        return Ok(template);
    }
    if let Some(missing) = failure::recent(layout, &key) {
        return Err(missing.error());
    }
    let made =
        quality::in_attempts(async || make_base(layout, backend, guest, shape, &key, &about).await);
    let lost = || Error::new(ErrorKind::Bug, "A base template is never unwanted");
    let template = kept(layout, &key, TemplateKind::Base, made.await)?.ok_or_else(lost)?;
    super::catalogue::drop_stale(layout);
    super::space::keep_within_limit(layout, &template);
    Ok(template)
}

/// Keeps why a template could not be made, or forgets why an earlier one could not.
fn kept(
    layout: &Layout,
    key: &str,
    kind: TemplateKind,
    made: Result<Option<Template>>,
) -> Result<Option<Template>> {
    match &made {
        Ok(_) => failure::forget(layout, key),
        Err(error) => failure::keep(layout, key, kind, error),
    }
    made
}

async fn make_base(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    shape: &MachineShape,
    key: &str,
    about: &[String],
) -> Result<Attempt> {
    let staging = StagingDir::new(layout.templates().join(key))?;
    for (name, bytes) in [
        ("root.blank", shape.root_bytes),
        ("upper.blank", shape.upper_bytes),
    ] {
        lift(cofferdam_disk::create_sparse(
            &staging.path().join(name),
            bytes,
        ))?;
    }
    let root = staging.path().join("root.blank");
    let spec = spec_in(staging.path(), guest, shape, root, "upper.blank")?;
    let machine = lift(backend.start(&spec).await)?;
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    watch(machine.as_ref(), &spec, agent.ready(BOOT_TIMEOUT)).await?;
    let rest = HostMessage::Quiesce;
    let unfit = quality::unfit(&mut agent, shape);
    if let Some(why) = watch(machine.as_ref(), &spec, unfit).await? {
        lift(machine.kill().await)?;
        return Ok(Attempt::Unfit(why));
    }
    capture(machine.as_ref(), &spec, &mut agent, &rest, staging.path()).await?;
    for name in ["root.blank", "upper.blank"] {
        // Placeholders; a leftover would do no harm.
        let _ = fs::remove_file_if_present(&staging.path().join(name));
    }
    let manifest = Manifest::new(TemplateKind::Base, about.to_vec(), shape);
    publish(staging, manifest).map(Attempt::Made)
}

/// Makes an image's template. With `again` also when there is one; else not when there is one or
/// somebody is making it.
pub(crate) async fn make_image(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    plan: &TemplatePlan,
    again: bool,
) -> Result<Option<Template>> {
    let compatibility = lift(backend.compatibility_key())?;
    let (key, about) = match &plan.workload {
        Some(StartedWorkload {
            process,
            limits,
            shm_bytes,
            ..
        }) => workload_key(
            guest,
            &compatibility,
            &plan.shape,
            &plan.root,
            process,
            limits,
            *shm_bytes,
        ),
        None => image_key(guest, &compatibility, &plan.shape, &plan.root),
    };
    let _lock = if again {
        lock(layout, &key).await?
    } else {
        let path = lock_path(layout, &key);
        let lock = LockFile::try_exclusive(&path)
            .map_err(|error| io("Could not lock a template", error))?;
        match lock {
            // What failed a short time ago fails again, and nobody waits for it.
            Some(lock)
                if Template::find(layout, &key).is_none()
                    && failure::recent(layout, &key).is_none() =>
            {
                lock
            }
            _ => return Ok(None),
        }
    };
    let base = ensure_base(layout, backend, guest, &plan.shape).await?;
    let kind = match plan.workload {
        Some(_) => TemplateKind::Workload,
        None => TemplateKind::Image,
    };
    let manifest = || Manifest {
        image: Some(plan.root.manifest),
        image_name: Some(plan.image_name.clone()),
        commands: plan.commands(),
        on_fork: plan
            .workload
            .as_ref()
            .and_then(|workload| workload.on_fork.clone()),
        ..Manifest::new(kind, about.clone(), &plan.shape)
    };
    // What the user has not asked for must not keep a template from being made.
    let rehearses = AtomicBool::new(true);
    let made = quality::in_attempts(async || {
        let staging = StagingDir::new(layout.templates().join(&key))?;
        let (plan, dir) = (planned(plan, &rehearses), staging.path());
        match fill_image(layout, backend, guest, &plan, &base, dir).await? {
            Filled::Unfit(why) => Ok(Attempt::Unfit(why)),
            Filled::Lost(error) => {
                rehearses.store(false, Relaxed);
                let why = format!("it was lost while it was warmed: {}", error.chain());
                Ok(Attempt::Unfit(why))
            }
            // An image that was removed meanwhile took its templates along.
            Filled::Fit if !plan.rootfs.exists() => Ok(Attempt::Unwanted),
            Filled::Fit => publish(staging, manifest()).map(Attempt::Made),
        }
    });
    let template = match made.await {
        // Who asked for it is told, and what was asked to run in it is not what starts need.
        Err(error) if again => return Err(error),
        made => kept(layout, &key, kind, made)?,
    };
    let Some(template) = template else {
        return Ok(None);
    };
    super::catalogue::drop_stale(layout);
    super::space::keep_within_limit(layout, &template);
    Ok(Some(template))
}

/// Waits while somebody makes the template of a key.
pub(crate) async fn wait_for_maker(layout: &Layout, key: &str) -> Result<()> {
    lock(layout, key).await.map(drop)
}

/// The plan of the next attempt.
fn planned<'a>(plan: &'a TemplatePlan, rehearses: &AtomicBool) -> Cow<'a, TemplatePlan> {
    if rehearses.load(Relaxed) {
        return Cow::Borrowed(plan);
    }
    Cow::Owned(TemplatePlan {
        rehearsals: None,
        ..plan.clone()
    })
}

/// What came of a guest that is to be an image's template.
enum Filled {
    Fit,
    /// It is sound but not one to be copied, for this reason.
    Unfit(String),
    /// It was lost while it ran what the user had not asked for.
    Lost(Error),
}

/// Makes the files of an image's template in `dir`.
async fn fill_image(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    plan: &TemplatePlan,
    base: &Template,
    dir: &Path,
) -> Result<Filled> {
    let memory = files_in(dir).memory;
    lift(cofferdam_disk::copy_sparse(&base.files().memory, &memory))?;
    let upper = dir.join("upper.ext4");
    crate::uppers::make(layout, plan.shape.upper_bytes, plan.root.read_only, &upper)?;
    let rootfs = plan.rootfs.clone();
    let spec = spec_in(dir, guest, &plan.shape, rootfs, "upper.ext4")?;
    let machine = lift(backend.restore(&base.files(), &spec).await).inspect_err(|error| {
        // Nothing would ever come of it; the next one makes another.
        if error.kind() == ErrorKind::BadSnapshot {
            base.give_up();
        }
    })?;
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    watch(machine.as_ref(), &spec, agent.ready(STEP_TIMEOUT)).await?;
    watch(machine.as_ref(), &spec, mount(&mut agent, plan)).await?;
    let rest = warm_to_rest(machine.as_ref(), &spec, &mut agent, plan).await?;
    if let Err(error) = rehearse(&mut agent, &plan.interpreters()).await {
        return Ok(Filled::Lost(error));
    }
    let unfit = quality::unfit(&mut agent, &plan.shape);
    if let Some(why) = watch(machine.as_ref(), &spec, unfit).await? {
        lift(machine.kill().await)?;
        return Ok(Filled::Unfit(why));
    }
    capture(machine.as_ref(), &spec, &mut agent, &rest, dir).await?;
    Ok(Filled::Fit)
}

async fn mount(agent: &mut AgentLink, plan: &TemplatePlan) -> Result<()> {
    let identity = adopt("template", IdentityCause::Start)?;
    agent
        .send(&[
            (CONTROL_STREAM, HostMessage::Adopt(identity)),
            (CONTROL_STREAM, HostMessage::MountRoot(root_spec(plan))),
        ])
        .await?;
    agent
        .expect(CONTROL_STREAM, |message| {
            matches!(message, AgentMessage::RootMounted).then_some(())
        })
        .await
}

/// Runs what the template is to have run; returns how its guest comes to rest. What the user
/// asked to run takes as long as it takes.
async fn warm_to_rest(
    machine: &dyn Machine,
    spec: &MachineSpec,
    agent: &mut AgentLink,
    plan: &TemplatePlan,
) -> Result<HostMessage> {
    let steps = async {
        warm::warm_up(agent, &plan.warm_ups, plan.limit).await?;
        match &plan.workload {
            Some(workload) => {
                warm::start(agent, workload, plan.limit).await?;
                Ok(HostMessage::Freeze { sync: false })
            }
            None => Ok(HostMessage::Quiesce),
        }
    };
    match steps.await {
        // What a process of the user's did needs no diagnosis of the machine.
        Err(error) if machine.exit_status().is_some() => {
            Err(crate::diagnosis::explain(machine, spec, error))
        }
        result => result,
    }
}

/// The root that a template mounts. What sandboxes want besides they get at their start, but for
/// those that find their workload running.
fn root_spec(plan: &TemplatePlan) -> RootSpec {
    let shm_bytes = plan.workload.as_ref().map_or_else(
        || SandboxSpec::default().shm_size.bytes(),
        |workload| workload.shm_bytes,
    );
    RootSpec {
        upper: if plan.root.read_only {
            UpperDevice::ReadOnly
        } else {
            UpperDevice::Disk
        },
        shm_bytes,
        tmpfs: Vec::new(),
    }
}

/// Runs a step of a guest, and reports the machine's death instead of the step's silence.
async fn watch<T>(
    machine: &dyn Machine,
    spec: &MachineSpec,
    step: impl Future<Output = Result<T>>,
) -> Result<T> {
    let silent = || Error::new(ErrorKind::GuestFailed, "The guest stopped answering");
    let result = tokio::time::timeout(BOOT_TIMEOUT, step).await;
    result
        .unwrap_or_else(|_| Err(silent()))
        .map_err(|error| crate::diagnosis::explain(machine, spec, error))
}

/// Brings the guest to rest and captures it; the machine is gone afterwards.
async fn capture(
    machine: &dyn Machine,
    spec: &MachineSpec,
    agent: &mut AgentLink,
    rest: &HostMessage,
    dir: &Path,
) -> Result<()> {
    let come_to_rest = async {
        agent.send(&[(CONTROL_STREAM, rest.clone())]).await?;
        agent
            .expect(CONTROL_STREAM, |message| {
                matches!(message, AgentMessage::Quiesced | AgentMessage::Frozen).then_some(())
            })
            .await
    };
    watch(machine, spec, come_to_rest).await?;
    let captured = async {
        lift(machine.pause().await)?;
        // The memory is in its file already; what is written are the devices, some 200 KiB.
        lift(machine.snapshot(files_in(dir)).await)
    };
    let slow = || {
        let what = format!("The capture took longer than {} s", STEP_TIMEOUT.as_secs());
        Error::new(ErrorKind::Timeout, what)
    };
    let captured = tokio::time::timeout(STEP_TIMEOUT, captured).await;
    captured.unwrap_or_else(|_| Err(slow()))?;
    lift(machine.stop(Signal::KILL, STEP_TIMEOUT).await)?;
    Ok(())
}

/// A machine whose files are all in a template's staging directory.
fn spec_in(
    dir: &Path,
    guest: &GuestFiles,
    shape: &MachineShape,
    root: PathBuf,
    upper: &str,
) -> Result<MachineSpec> {
    let id = SandboxId::from_random(random::bytes()?);
    Ok(MachineSpec {
        memory: MemoryBacking::SharedFile(files_in(dir).memory),
        console_log: dir.join("console.log"),
        vmm_log: dir.join("vmm.log"),
        run_dir: dir.to_owned(),
        ..machine_spec(id, guest, shape, root, dir.join(upper))
    })
}

/// Gives a template its name; one that has it goes. Machines that came from that one hold its
/// memory open.
fn publish(staging: StagingDir, manifest: Manifest) -> Result<Template> {
    let failed = |error| io("Could not publish a template", error);
    let dir = staging.path();
    for name in [
        "machine.json",
        "console.log",
        "vmm.log",
        "console.log.1",
        "vmm.log.1",
    ] {
        fs::remove_file_if_present(&dir.join(name)).map_err(failed)?;
    }
    let manifest = Manifest {
        created_ns: unix_time_ns(),
        state_digest: state_digest(&files_in(dir).state)?,
        ..manifest
    };
    fs::publish_json(&dir.join("manifest.json"), &manifest, false).map_err(failed)?;
    if let Some(old) = Template::at(staging.target()) {
        old.remove()?;
    }
    Ok(Template {
        dir: staging.publish()?,
    })
}

fn lock_path(layout: &Layout, key: &str) -> PathBuf {
    layout.templates().join(format!("{key}.lock"))
}

async fn lock(layout: &Layout, key: &str) -> Result<LockFile> {
    let path = lock_path(layout, key);
    let lock = tokio::task::spawn_blocking(move || LockFile::exclusive(&path)).await;
    lock.map_err(|error| Error::new(ErrorKind::Bug, "A task was lost").because(error))?
        .map_err(|error| io("Could not lock a template", error))
}
