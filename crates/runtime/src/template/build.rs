//! Making templates: one maker for each key, some attempts at a good one, and its publication.
//!
//! [`fill_image`] has the steps of the guest of an image's template; the base's are here.

use std::{borrow::Cow, path::PathBuf, sync::OnceLock};

use cofferdam_backend::Backend;
use cofferdam_base::{LockFile, fs, time::unix_time_ns};
use cofferdam_proto::HostMessage;

use super::{
    MachineShape, Manifest, Template, TemplateKind, base_key, failure, files_in,
    fill::{FillOutcome, fill_image},
    image_key,
    making::{BOOT_TIMEOUT, Making, capture, spec_in, watch},
    plan::TemplatePlan,
    quality::{self, Attempt},
    state_digest, workload_key,
};
use crate::{
    base::error::{Error, ErrorKind, Result, io, lift},
    host::{
        guest::GuestFiles,
        needs::{self, Need},
    },
    link::AgentLink,
    store::{layout::Layout, staging::StagingDir},
};

/// The base template for a shape; made now if there is none. With `again` also when that has
/// failed a short time ago.
pub(crate) async fn ensure_base(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    shape: &MachineShape,
    again: bool,
) -> Result<Template> {
    needs::expect(backend, Need::Forks)?;
    let (key, about) = base_key(guest, &lift(backend.compatibility_key())?, shape);
    if let Some(template) = Template::find(layout, &key) {
        return Ok(template);
    }
    let _lock = lock(layout, &key).await?;
    // Somebody else may have made it while we waited.
    if let Some(template) = Template::find(layout, &key) {
        return Ok(template);
    }
    if let Some(missing) = failure::recent(layout, &key).filter(|_| !again) {
        return Err(missing.error());
    }
    let made =
        quality::in_attempts(async || make_base(layout, backend, guest, shape, &key, &about).await);
    let lost = || Error::new(ErrorKind::Bug, "A base template is never unwanted");
    let template = kept(layout, &key, TemplateKind::Base, made.await)?.ok_or_else(lost)?;
    super::list::drop_stale(layout);
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
    let of = Making {
        backend,
        machine: machine.as_ref(),
        spec: &spec,
    };
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    watch(of, agent.ready(BOOT_TIMEOUT)).await?;
    let rest = HostMessage::Quiesce;
    let unfit = quality::unfit(&mut agent, shape, false);
    if let Some(why) = watch(of, unfit).await? {
        lift(machine.kill().await)?;
        return Ok(Attempt::Unfit(why));
    }
    capture(of, &mut agent, &rest, staging.path()).await?;
    for name in ["root.blank", "upper.blank"] {
        // Placeholders; a leftover would do no harm.
        let _ = fs::remove_file_if_present(&staging.path().join(name));
    }
    let manifest = Manifest::new(TemplateKind::Base, about.to_vec(), shape);
    publish(layout, staging, manifest).map(Attempt::Made)
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
    needs::expect(backend, Need::Forks)?;
    let compatibility = lift(backend.compatibility_key())?;
    let (key, about) = match &plan.workload {
        Some(workload) => workload_key(
            guest,
            &compatibility,
            &plan.shape,
            &plan.root,
            workload.held(),
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
    let base = ensure_base(layout, backend, guest, &plan.shape, again).await?;
    let kind = match plan.workload {
        Some(_) => TemplateKind::Workload,
        None => TemplateKind::Image,
    };
    let manifest = || Manifest {
        image: Some(plan.root.manifest),
        image_name: Some(plan.image_name.clone()),
        commands: plan.asked(),
        on_fork: plan
            .workload
            .as_ref()
            .and_then(|workload| workload.on_fork.clone()),
        ..Manifest::new(kind, about.clone(), &plan.shape)
    };
    // What the user has not asked for must not keep a template from being made.
    let lost = OnceLock::new();
    let made = quality::in_attempts(async || {
        let staging = StagingDir::new(layout.templates().join(&key))?;
        let (plan, dir) = (planned(plan, lost.get()), staging.path());
        match fill_image(layout, backend, guest, &plan, &base, dir).await? {
            FillOutcome::Unfit(why) => Ok(Attempt::Unfit(why)),
            FillOutcome::Lost(error) => {
                let why = format!("it was lost while it was warmed: {}", error.chain());
                // The first is as good as the next.
                let _ = lost.set(format!("A guest was made without a warm-up: {why}"));
                Ok(Attempt::Unfit(why))
            }
            // An image that was removed meanwhile took its templates along.
            FillOutcome::Fit(_) if !plan.rootfs.exists() => Ok(Attempt::Unwanted),
            FillOutcome::Fit(notes) => {
                let notes = lost.get().cloned().into_iter().chain(notes).collect();
                let manifest = Manifest {
                    notes,
                    ..manifest()
                };
                publish(layout, staging, manifest).map(Attempt::Made)
            }
        }
    });
    let template = match made.await {
        // The client reports the error. It is not kept: the client's commands may have caused it,
        // and a start needs none of them.
        Err(error) if again => return Err(error),
        made => kept(layout, &key, kind, made)?,
    };
    let Some(template) = template else {
        return Ok(None);
    };
    super::list::drop_stale(layout);
    super::space::keep_within_limit(layout, &template);
    Ok(Some(template))
}

/// Waits while somebody makes the template of a key.
pub(crate) async fn wait_for_maker(layout: &Layout, key: &str) -> Result<()> {
    lock(layout, key).await.map(drop)
}

/// The plan of the next attempt, after a guest was lost while it was warmed or not.
fn planned<'a>(plan: &'a TemplatePlan, lost: Option<&String>) -> Cow<'a, TemplatePlan> {
    if lost.is_none() {
        return Cow::Borrowed(plan);
    }
    Cow::Owned(TemplatePlan {
        auto_warm_ups: None,
        ..plan.clone()
    })
}

/// Gives a template its name; one that has it goes. Machines that came from that one hold its
/// memory open.
fn publish(layout: &Layout, staging: StagingDir, manifest: Manifest) -> Result<Template> {
    let failed = |error| io("Could not publish a template", error);
    let dir = staging.path();
    // The machine has ended; its record and logs are no part of the template.
    layout.backends().reap(dir);
    for name in ["console.log", "vmm.log", "console.log.1", "vmm.log.1"] {
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
