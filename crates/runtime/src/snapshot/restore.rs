//! Restore: the sandbox of a snapshot again, under its own identity.

use cofferdam_base::fs;
use cofferdam_proto::{IdentityCause, StartMode};
use cofferdam_types::{NetworkSpec, SandboxStatus};

use super::{Snapshot, SnapshotFileName, SnapshotKind, Snapshots, bad, captured::CapturedState};
use crate::{
    base::error::{Error, ErrorKind, Result, io},
    client, network,
    store::{Entry, EventKind, SandboxRecord, log_mark, resume::Resume},
};

impl Snapshots<'_> {
    /// Brings back the sandbox of a snapshot with its id and name; under another name only if it is
    /// gone. From a full snapshot it runs on
    /// from that moment; from a disk it is there to be started. What it has on its disk since is
    /// lost.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is live; [`ErrorKind::NameTaken`] when it is gone and
    /// another has its name; [`ErrorKind::BadSnapshot`] and those of a start.
    pub(crate) async fn restore(&self, snapshot: &Snapshot, name: Option<&str>) -> Result<Entry> {
        let mut record = self.repin(&snapshot.manifest.sandbox)?;
        if let Some(name) = name {
            self.rename(&mut record, name)?;
        }
        snapshot.expect_untouched().await?;
        // What the sandbox has now is lost with the swap, so a machine that cannot go on is
        // refused before.
        if snapshot.manifest.kind == SnapshotKind::Full {
            snapshot.verify_state()?;
            self.expect_same_machine(&snapshot.manifest)?;
        }
        let id = record.id;
        if snapshot.manifest.kind == SnapshotKind::Full {
            // What the sandbox has now is the network that it starts with.
            let there = self.store.load(id)?;
            let network = there.as_ref().map_or(&record, |there| &there.record);
            network::expect_free(&network.spec.network)?;
        }
        let moment = CapturedState {
            dir: snapshot.dir().to_owned(),
            machine: snapshot.machine_files(),
            cause: IdentityCause::Restore,
        };
        // Before anything is replaced.
        let secrets = match moment.machine {
            Some(_) => record.secret_values()?,
            None => Vec::new(),
        };
        match self.store.load(id)? {
            Some(entry) if !is_same(&entry.record, &record) => {
                let what = "is of another sandbox than the one that has its id here";
                return Err(bad(&snapshot.label(), what));
            }
            Some(entry) => self.replace(&entry, &moment)?,
            None => drop(
                self.store
                    .insert(&record, |dir| moment.place(dir))
                    .map_err(|error| other_name(error, &record.name))?,
            ),
        }
        let log = self.store.layout().sandbox(id).output();
        log_mark::restored(&log, &snapshot.manifest)?;
        let snapshot = snapshot.manifest.id;
        self.store.note(&record, EventKind::Restored { snapshot });
        let entry = self.store.find(&id.to_string())?;
        if moment.machine.is_none() {
            return Ok(entry);
        }
        let mode = StartMode {
            secrets,
            ..StartMode::default()
        };
        client::start(self.store, &entry, mode).await?;
        self.store.find(&id.to_string())
    }

    /// Gives a sandbox that is to be brought back another name.
    fn rename(&self, record: &mut SandboxRecord, name: &str) -> Result<()> {
        if !cofferdam_types::valid_name(name) {
            let what = format!("`{name}` is not a sandbox name");
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        if let Some(there) = self.store.load(record.id)?
            && there.record.name != name
        {
            let there = there.record.name;
            let what = format!("The sandbox is still there as `{there}` and keeps that name");
            return Err(Error::new(ErrorKind::WrongState, what).hint(format!(
                "Restore it without `-n`, or make another with `coffer fork -n {name}`"
            )));
        }
        record.name = name.to_owned();
        record.spec.name = Some(name.to_owned());
        Ok(())
    }

    /// Puts a moment's files in place of those of a sandbox that does not run.
    fn replace(&self, entry: &Entry, moment: &CapturedState) -> Result<()> {
        let name = &entry.record.name;
        let id = entry.record.id;
        let in_the_way = |status: SandboxStatus| {
            Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{name}` is {status}"),
            )
            .hint(format!(
                "Stop it first with `coffer stop {name}`, or fork the snapshot"
            ))
        };
        let Some(_lock) = self.store.try_lock(id)? else {
            return Err(in_the_way(entry.state.status));
        };
        let paths = self.store.layout().sandbox(id);
        let staging = fs::staging_path(&paths.dir);
        let failed = |error| io(format!("Could not replace the disk of `{name}`"), error);
        fs::create_private_dir(&staging).map_err(failed)?;
        let swap = moment.place(&staging).and_then(|()| {
            // An earlier restore may not have come up. Its memory must never meet this disk.
            Resume::clear(&paths)?;
            let upper = SnapshotFileName::Upper.as_str();
            std::fs::rename(staging.join(upper), paths.upper()).map_err(failed)?;
            if moment.machine.is_some() {
                let resume = "resume.json";
                std::fs::rename(staging.join(resume), paths.dir.join(resume)).map_err(failed)?;
            }
            Ok(())
        });
        // Emptied, or what a failure left of it.
        let _ = fs::remove_dir_if_present(&staging);
        swap
    }
}

/// The error of a name that another has, with the way around it.
fn other_name(error: Error, name: &str) -> Error {
    if error.kind() != ErrorKind::NameTaken {
        return error;
    }
    let what = format!("The name `{name}` is taken by another sandbox");
    Error::new(ErrorKind::NameTaken, what).hint("Give it another name with `-n`")
}

/// Whether two records are of one sandbox. An id alone does not say so: a stranger's snapshot may
/// name any. Paths are of the host that wrote them.
pub(super) fn is_same(ours: &SandboxRecord, theirs: &SandboxRecord) -> bool {
    let without_paths = |record: &SandboxRecord| {
        let mut record = record.clone();
        record.image.rootfs = std::path::PathBuf::new();
        // A snapshot's are never believed.
        record.image.auto_warm_ups = None;
        record.spec.kernel = None;
        // An import takes the policy off.
        record.spec.network = NetworkSpec {
            mode: record.spec.network.mode,
            ..NetworkSpec::default()
        };
        // One that was gone may have come back under another name.
        record.name.clear();
        record.spec.name = None;
        record
    };
    without_paths(ours) == without_paths(theirs)
}
