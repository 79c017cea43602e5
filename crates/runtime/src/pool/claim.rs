//! A start that finds a standby.

use cofferdam_proto::{CLIENT_GENERATION, Request, SupervisorMessage};

use super::{Place, Pool, Ready, fill::spawn_fill};
use crate::{
    client::Connection,
    error::{ErrorKind, Result},
    guest,
    sandbox::{Runtime, StartMode},
    store::Entry,
    template::{MachineShape, RootShape},
};

impl Runtime {
    /// Has a standby take a sandbox over, if there is one that fits; `None` if it is to be started
    /// in the usual way.
    pub(crate) async fn claim(
        &self,
        entry: &Entry,
        mode: StartMode,
    ) -> Option<Result<(Connection, SupervisorMessage)>> {
        let layout = self.store().layout();
        let pools = Pool::all(layout);
        // A sandbox that has run has a disk that no standby's guest knows.
        if pools.is_empty() || entry.state.starts > 0 || layout.sandbox(entry.record.id).has_disk()
        {
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
        for pool in pools.iter().filter(fits) {
            let key = |guest| pool.template_key(backend.as_ref(), guest).ok();
            let key = guest.as_ref().and_then(key);
            let fits = |ready: &Ready| {
                ready.generation == CLIENT_GENERATION
                    && key.as_ref().is_none_or(|key| *key == ready.template)
            };
            for id in pool.ids() {
                let place = Place::of(layout, pool, id);
                if !Ready::read(&place.dir).is_some_and(|ready| fits(&ready)) {
                    continue;
                }
                let request = Request::Claim {
                    sandbox: record.id,
                    attach: mode.attach,
                    stdin: mode.stdin,
                    tied: mode.tied,
                };
                match take(&place, request).await {
                    // Another was faster, or it is gone.
                    Err(error) if error.kind() == ErrorKind::SupervisorLost => {}
                    taken => return Some(taken),
                }
            }
            // None was left: for the next who comes.
            if let Err(error) = spawn_fill(layout, &pool.manifest.name) {
                crate::supervisor::log_line(&error.chain());
            }
        }
        None
    }
}

async fn take(place: &Place, request: Request) -> Result<(Connection, SupervisorMessage)> {
    let mut connection = Connection::open(&place.socket(), request).await?;
    let started = connection.answer().await?;
    Ok((connection, started))
}
