//! The making of a standby: a machine is brought to the point before the workload, and warmed.

use std::{io::ErrorKind as IoErrorKind, sync::Arc, time::SystemTime};

use cofferdam_backend::{Backend, Machine, MachineSpec};
use cofferdam_base::{LockFile, fs};
use cofferdam_proto::CLIENT_GENERATION;
use cofferdam_types::SandboxId;
use tokio::net::UnixListener;

use super::{Pool, READY, Ready, StandbyPaths, handover};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, lift},
        socket,
    },
    host::{
        compatibility::machine_key,
        guest::{self, GuestFiles},
    },
    link::AgentLink,
    spec::interpreters::AutoWarmUps,
    store::{
        layout::{Layout, SandboxPaths},
        staging::StagingDir,
    },
    template::{self, BOOT_TIMEOUT, Template},
};

/// A machine at the point before the workload.
#[derive(Debug)]
pub(super) struct Standby {
    pub(super) place: StandbyPaths,
    pub(super) layout: Layout,
    pub(super) pool: String,
    pub(super) machine: Arc<dyn Machine>,
    pub(super) agent: AgentLink,
    pub(super) backend: &'static str,
    /// What a machine must have in common with this one to go on from a capture of it.
    pub(super) machine_key: String,
    /// See [`Live::disk_made`].
    pub(super) disk_made: Option<SystemTime>,
    // Held for as long as the standby has files of its own.
    _lock: LockFile,
}

impl Standby {
    /// Gives its files to the sandbox that claimed it; returns the name of its pool.
    pub(super) fn hand_over(&self, paths: &SandboxPaths) -> Result<String> {
        let failed = |error| io("Could not take over a standby's files", error);
        std::fs::rename(self.place.upper(), paths.upper()).map_err(failed)?;
        let logs = [("console.log", paths.console()), ("vmm.log", paths.vmm())];
        let logs = logs.map(|(name, to)| (self.place.dir.join(name), to));
        lift(self.machine.move_to(&paths.run))?;
        for (from, to) in logs {
            match std::fs::rename(from, to) {
                // A log that nothing was written to.
                Err(error) if error.kind() == IoErrorKind::NotFound => {}
                result => result.map_err(failed)?,
            }
        }
        let _ = fs::remove_dir_if_present(&self.place.run);
        let _ = fs::remove_dir_if_present(&self.place.dir);
        Ok(self.pool.clone())
    }
}

/// What came of the making of a standby.
enum Prepared {
    Ready(Box<Standby>, UnixListener),
    /// The machine was lost while it ran what the user had not asked for.
    Lost(Error),
}

/// Makes the standby, without what it would run by itself if its machine does not survive that.
pub(super) async fn prepare_or_retry(
    layout: &Layout,
    pool: &Pool,
    place: &StandbyPaths,
    id: SandboxId,
) -> Result<(Standby, UnixListener)> {
    let auto_warm_ups = pool.manifest.plan.auto_warm_ups.as_ref();
    let error = match prepare(layout, pool, place, id, auto_warm_ups).await? {
        Prepared::Ready(standby, listener) => return Ok((*standby, listener)),
        Prepared::Lost(error) => error,
    };
    let what = "The standby's machine was lost while it was warmed, and is made without that";
    place.remove(layout);
    match prepare(layout, pool, place, id, None).await? {
        Prepared::Ready(mut standby, listener) => {
            standby.agent.note(format!("{what}: {}", error.chain()));
            Ok((*standby, listener))
        }
        Prepared::Lost(error) => Err(error),
    }
}

/// Brings a machine up to the point before the workload, and makes the socket for its claim.
async fn prepare(
    layout: &Layout,
    pool: &Pool,
    place: &StandbyPaths,
    id: SandboxId,
    auto_warm_ups: Option<&AutoWarmUps>,
) -> Result<Prepared> {
    let failed = |error| io("Could not prepare a standby", error);
    let lock = reserve(place)?;
    layout.make_sockets(&layout.sandbox(id))?;
    let manifest = &pool.manifest;
    let backend = crate::host::backend(layout, Some(&manifest.backend))?;
    let guest = guest::find(layout, manifest.kernel.as_deref())?;
    let (found, key) = template_of(layout, pool, backend.as_ref(), &guest).await?;
    lift(cofferdam_disk::copy_sparse(&found.upper(), &place.upper()))?;
    let made = std::fs::metadata(place.upper()).and_then(|meta| meta.modified());
    let (plan, rootfs) = (&manifest.plan, manifest.plan.rootfs.clone());
    let spec = MachineSpec {
        console_log: place.dir.join("console.log"),
        vmm_log: place.dir.join("vmm.log"),
        run_dir: place.run.clone(),
        ..template::machine_spec(id, &guest, &plan.shape, rootfs, place.upper())
    };
    let machine: Arc<dyn Machine> = lift(backend.restore(&found.files(), &spec).await)?.into();
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    agent.ready(BOOT_TIMEOUT).await?;
    template::warm_up(
        &mut agent,
        &pool.manifest.warm_ups,
        template::DEFAULT_TIMEOUT,
    )
    .await?;
    for note in found.notes() {
        agent.note(note);
    }
    if let Err(error) = warm(&mut agent, auto_warm_ups, plan.shape.mtu.is_some()).await {
        return Ok(Prepared::Lost(error));
    }
    let ready = Ready {
        template: key,
        generation: CLIENT_GENERATION,
    };
    fs::publish_json(&place.dir.join(READY), &ready, false).map_err(failed)?;
    let listener = socket::bind(&place.socket()).map_err(failed)?;
    let standby = Standby {
        place: place.clone(),
        layout: layout.clone(),
        pool: manifest.name.clone(),
        machine,
        agent,
        backend: backend.name(),
        machine_key: machine_key(backend.as_ref(), &guest)?,
        disk_made: made.ok(),
        _lock: lock,
    };
    Ok(Prepared::Ready(Box::new(standby), listener))
}

/// Makes the standby's directory. It appears with its lock held: a directory whose lock is free is
/// a dead one's.
fn reserve(place: &StandbyPaths) -> Result<LockFile> {
    let failed = |error| io("Could not prepare a standby", error);
    let staging = StagingDir::new(place.dir.clone())?;
    let lock = LockFile::try_exclusive(&staging.path().join("lock")).map_err(failed)?;
    let taken = || Error::new(ErrorKind::WrongState, "The standby is there already");
    let lock = lock.ok_or_else(taken)?;
    handover::note_process(staging.path()).map_err(failed)?;
    staging.publish()?;
    Ok(lock)
}

/// The template that the pool's standbys come from, and its key. One that is not there is made.
async fn template_of(
    layout: &Layout,
    pool: &Pool,
    backend: &dyn Backend,
    guest: &GuestFiles,
) -> Result<(Template, String)> {
    let key = pool.template_key(backend, guest)?;
    if Template::find(layout, &key).is_none() {
        let plan = &pool.manifest.plan;
        let made = template::make_image(layout, backend, guest, plan, false).await?;
        if made.is_none() {
            template::wait_for_maker(layout, &key).await?;
        }
    }
    let lost = || Error::new(ErrorKind::NotFound, "The pool's template is gone");
    let found = Template::find(layout, &key).ok_or_else(lost)?;
    Ok((found, key))
}

/// Runs what makes a standby quicker than a fresh machine: under emulation code that has run
/// once is translated. Fails only when the machine is lost.
async fn warm(
    agent: &mut AgentLink,
    auto_warm_ups: Option<&AutoWarmUps>,
    has_network: bool,
) -> Result<()> {
    let interpreters = auto_warm_ups.map(AutoWarmUps::interpreters);
    template::run_warm_ups(agent, &interpreters.unwrap_or_default()).await?;
    template::quiesce(agent).await?;
    let claims = auto_warm_ups.map(AutoWarmUps::claims).unwrap_or_default();
    template::warm_up_claim(agent, &claims, has_network).await
}
