//! What other handles see of a machine.

use super::{
    Harness, Outcome, Running,
    clock::bounded,
    outcome::{ensure, refused},
};
use crate::{ErrorKind, MachineStatus};

pub(super) async fn the_list_tells_the_living_from_the_dead(harness: &dyn Harness) -> Outcome {
    let parent = harness.directory();
    let mut specs = [harness.spec(), harness.spec()];
    for (spec, name) in specs.iter_mut().zip(["one", "two"]) {
        spec.run_dir = parent.join(name);
    }
    std::fs::create_dir(parent.join("empty"))?;
    let one = Running::start(harness, &specs[0]).await?;
    let two = Running::start(harness, &specs[1]).await?;
    let alive = |expected: [bool; 2]| {
        let (parent, specs) = (parent.clone(), &specs);
        async move {
            let mut list = harness.backend().list(parent).await?;
            list.sort_by(|a, b| a.run_dir.cmp(&b.run_dir));
            let seen: Vec<_> = list
                .iter()
                .map(|info| (&info.run_dir, info.alive))
                .collect();
            let wanted: Vec<_> = specs
                .iter()
                .map(|spec| &spec.run_dir)
                .zip(expected)
                .collect();
            ensure(seen == wanted, || {
                format!("listed {seen:?}, not {wanted:?}")
            })
        }
    };
    alive([true, true]).await?;
    bounded(harness, "kill", one.machine.kill()).await??;
    alive([false, true]).await?;
    let dead = harness.backend().attach(specs[0].run_dir.clone()).await;
    refused("attaching to a dead machine", dead, &[ErrorKind::Gone])?;
    let nothing = harness.backend().attach(parent.join("empty")).await;
    refused("attaching to nothing", nothing, &[ErrorKind::Gone])?;
    bounded(harness, "kill", two.machine.kill()).await??;
    alive([false, false]).await
}

pub(super) async fn an_attached_handle_sees_and_ends_the_machine_but_does_not_own_it(
    harness: &dyn Harness,
) -> Outcome {
    let spec = harness.spec();
    let mut running = Running::start(harness, &spec).await?;
    let attach = || harness.backend().attach(spec.run_dir.clone());
    let attached = attach().await?;
    let owner = &running.machine;
    ensure(
        (attached.id(), attached.pid()) == (owner.id(), owner.pid()),
        || "an attached handle is to another machine".to_owned(),
    )?;
    let channel = attached.agent_channel();
    refused(
        "an attached handle's agent channel",
        channel,
        &[ErrorKind::WrongState],
    )?;
    drop(attached);
    running.guest.tick()?;
    let attached = attach().await?;
    bounded(harness, "kill by an attached handle", attached.kill()).await??;
    bounded(harness, "wait by the owner", running.machine.wait()).await?;
    let status = attached.status();
    ensure(status == MachineStatus::Exited, || {
        format!("attached status is {status:?}")
    })
}
