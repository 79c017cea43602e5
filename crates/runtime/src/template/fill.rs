//! The guest that becomes an image's template: restored from the base template, given the image's
//! root, warmed up, rehearsed and captured.

use std::path::Path;

use cofferdam_backend::Backend;
use cofferdam_proto::{
    AgentMessage, CONTROL_STREAM, HostMessage, IdentityCause, RootSpec, UpperDevice,
};
use cofferdam_types::SandboxSpec;

use super::{
    Template,
    auto_warm_up::run_warm_ups,
    files_in,
    making::{Making, STEP_TIMEOUT, capture, spec_in, watch},
    plan::TemplatePlan,
    quality, warm,
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, lift},
        task::log_line,
    },
    host::guest::GuestFiles,
    link::{AgentLink, adopt},
    network,
    store::layout::Layout,
};

/// What came of a guest that is to be an image's template.
pub(super) enum FillOutcome {
    /// With what of it is not as fast as it could be.
    Fit(Vec<String>),
    /// It is sound but not one to be copied, for this reason.
    Unfit(String),
    /// It was lost while it ran what the user had not asked for.
    Lost(Error),
}

/// Makes the files of an image's template in `dir`.
pub(super) async fn fill_image(
    layout: &Layout,
    backend: &dyn Backend,
    guest: &GuestFiles,
    plan: &TemplatePlan,
    base: &Template,
    dir: &Path,
) -> Result<FillOutcome> {
    let memory = files_in(dir).memory;
    lift(cofferdam_disk::copy_sparse(&base.files().memory, &memory))?;
    let upper = dir.join("upper.ext4");
    crate::store::uppers::make(layout, plan.shape.upper_bytes, &upper)?;
    let rootfs = plan.rootfs.clone();
    let spec = spec_in(dir, guest, &plan.shape, rootfs, "upper.ext4")?;
    let machine = lift(backend.restore(&base.files(), &spec).await).inspect_err(|error| {
        // Nothing would ever come of it; the next one makes another.
        if error.kind() == ErrorKind::BadSnapshot {
            base.give_up();
        }
    })?;
    let of = Making {
        backend,
        machine: machine.as_ref(),
        spec: &spec,
    };
    let mut agent = AgentLink::new(lift(machine.agent_channel())?)?;
    watch(of, agent.ready(STEP_TIMEOUT)).await?;
    watch(of, mount(&mut agent, plan)).await?;
    let rest = warm_to_rest(of, &mut agent, plan).await?;
    if let Err(error) = run_warm_ups(&mut agent, &plan.interpreters()).await {
        return Ok(FillOutcome::Lost(error));
    }
    let unfit = quality::unfit(&mut agent, &plan.shape, true);
    if let Some(why) = watch(of, unfit).await? {
        lift(machine.kill().await)?;
        return Ok(FillOutcome::Unfit(why));
    }
    if machine.discards() && (!plan.warm_ups.is_empty() || plan.workload.is_some()) {
        // What it has deleted would be in every sandbox's disk.
        let trimmed = watch(of, agent.trim(&upper)).await;
        if let Err(error) = trimmed {
            log_line(&format!("The template is not trimmed: {}", error.chain()));
        }
    }
    capture(of, &mut agent, &rest, dir).await?;
    Ok(FillOutcome::Fit(agent.take_notes()))
}

async fn mount(agent: &mut AgentLink, plan: &TemplatePlan) -> Result<()> {
    // With it a start has to set the MAC address alone.
    let network = plan.shape.mtu.map(|_| network::of_template());
    let identity = adopt("template", IdentityCause::Start, network.as_ref())?;
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
    of: Making<'_>,
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
        Err(error) if of.machine.exit_status().is_some() => Err(of.explain(error)),
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
        upper: if plan.is_read_only() {
            UpperDevice::ReadOnly
        } else {
            UpperDevice::Disk
        },
        shm_bytes,
        tmpfs: Vec::new(),
    }
}
