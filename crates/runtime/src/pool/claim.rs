//! A start that looks for a standby.

use std::time::Instant;

use cofferdam_proto::{CLIENT_GENERATION, Request, StartMode, SupervisorMessage};
use cofferdam_types::SandboxId;

use super::{Pool, Ready, StandbyPaths, fill::spawn_fill, handover::CLAIM_TIMEOUT};
use crate::{
    base::error::{ErrorKind, Result},
    client::{Connection, unless_stopped},
    host::guest,
    store::{Entry, Store, layout::Layout},
    template::{MachineShape, RootShape},
};

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Claim {
    /// A standby has taken the sandbox over; what it answered.
    Taken(Box<Result<(Connection, SupervisorMessage)>>),
    /// No standby fits.
    None,
    /// A standby did not answer in time. It is killed and replaced in the background.
    Silent,
}

/// Has a standby take a sandbox over, if there is one that fits and answers.
pub(crate) async fn claim(store: &Store, entry: &Entry, mode: &StartMode) -> Claim {
    try_claim(store, entry, mode).await.unwrap_or(Claim::None)
}

async fn try_claim(store: &Store, entry: &Entry, mode: &StartMode) -> Option<Claim> {
    let layout = store.layout();
    let pools = Pool::all(layout);
    // A sandbox that has run has a disk that no standby's guest knows.
    if pools.is_empty() || entry.state.starts > 0 || layout.sandbox(entry.record.id).has_disk() {
        return None;
    }
    let record = &entry.record;
    let shape = MachineShape::of(&record.spec, record.image.disk_bytes);
    let root = RootShape::of(&record.spec, record.image.manifest)?;
    let backend = crate::host::backend(layout, record.spec.backend.as_deref()).ok()?;
    let fits = |pool: &&Pool| {
        let manifest = &pool.manifest;
        manifest.plan.shape == shape
            && manifest.plan.root == root
            && manifest.backend == backend.name()
            && manifest.kernel == record.spec.kernel
    };
    // A program that uses the library has no agent to compare with; its standbys were made by
    // the program beside it.
    let guest = guest::find(layout, record.spec.kernel.as_deref()).ok();
    let mut first_asked = None;
    for pool in pools.iter().filter(fits) {
        let key = |guest| pool.template_key(backend.as_ref(), guest).ok();
        let key = guest.as_ref().and_then(key);
        let fits = |ready: &Ready| {
            ready.generation == CLIENT_GENERATION
                && key.as_ref().is_none_or(|key| *key == ready.template)
        };
        for id in pool.ids() {
            let place = StandbyPaths::of(layout, pool, id);
            if !Ready::read(&place.dir).is_some_and(|ready| fits(&ready)) {
                continue;
            }
            let request = Request::Claim {
                sandbox: record.id,
                mode: mode.clone(),
            };
            let begin = *first_asked.get_or_insert_with(Instant::now);
            match ask(store, &place, record.id, request, begin).await {
                // Another was faster, or it is gone.
                Claim::Taken(taken) if is_lost(&taken) => {}
                Claim::Silent => {
                    fill_in_background(layout, pool);
                    return Some(Claim::Silent);
                }
                taken => return Some(taken),
            }
        }
        // None was left: for the next claim. An automatic one is made when the sandbox runs.
        if !pool.is_automatic() {
            fill_in_background(layout, pool);
        }
    }
    None
}

/// Asks one standby. Its time is up [`CLAIM_TIMEOUT`] after `begin`, unless it has accepted.
async fn ask(
    store: &Store,
    place: &StandbyPaths,
    sandbox: SandboxId,
    request: Request,
    begin: Instant,
) -> Claim {
    let asked = async {
        let mut connection = Connection::open(&place.socket(), request).await?;
        let started = connection.answer().await?;
        Ok((connection, started))
    };
    tokio::pin!(asked);
    let deadline = tokio::time::Instant::from_std(begin + CLAIM_TIMEOUT);
    match tokio::time::timeout_at(deadline, &mut asked).await {
        Ok(answer) => Claim::Taken(Box::new(answer)),
        Err(_) if place.give_up() => Claim::Silent,
        // It has accepted, and its machine answers: the rest takes as long as any start.
        Err(_) => Claim::Taken(Box::new(unless_stopped(store, sandbox, asked).await)),
    }
}

fn fill_in_background(layout: &Layout, pool: &Pool) {
    if let Err(error) = spawn_fill(layout, &pool.manifest.name) {
        crate::base::task::log_line(&error.chain());
    }
}

/// Whether the standby was gone before it took the sandbox.
fn is_lost(taken: &Result<(Connection, SupervisorMessage)>) -> bool {
    taken
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::SupervisorLost)
}
