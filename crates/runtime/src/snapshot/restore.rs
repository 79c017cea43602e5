//! Restore: the sandbox of a snapshot again, under its own identity.

use cofferdam_base::fs;
use cofferdam_proto::{IdentityCause, StartMode};
use cofferdam_types::SandboxStatus;

use super::{
    Snapshot, SnapshotFileName, SnapshotKind, bad,
    resume::{Moment, Resume},
};
use crate::{
    error::{Error, ErrorKind, Result, io},
    sandbox::Runtime,
    store::{Entry, SandboxRecord},
};

impl Runtime {
    /// Brings back the sandbox of a snapshot with its id and name. From a full snapshot it runs on
    /// from that moment; from a disk it is there to be started. What it has on its disk since is
    /// lost.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is live; [`ErrorKind::NameTaken`] when it is gone and
    /// another has its name; [`ErrorKind::BadSnapshot`] and those of a start.
    pub async fn restore(&self, snapshot: &Snapshot) -> Result<Entry> {
        let record = self.repin(&snapshot.manifest.sandbox)?;
        snapshot.expect_untouched().await?;
        // What the sandbox has now is lost with the swap, so a machine that cannot go on is
        // refused before.
        if snapshot.manifest.kind == SnapshotKind::Full {
            snapshot.verify_state()?;
            self.expect_same_machine(&snapshot.manifest)?;
        }
        let moment = Moment {
            dir: snapshot.dir().to_owned(),
            machine: snapshot.machine_files(),
            cause: IdentityCause::Restore,
        };
        let id = record.id;
        match self.store().load(id)? {
            Some(entry) if !is_same(&entry.record, &record) => {
                let what = "is of another sandbox than the one that has its id here";
                return Err(bad(&snapshot.label(), what));
            }
            Some(entry) => self.replace(&entry, &moment)?,
            None => drop(self.store().insert(&record, |dir| moment.place(dir))?),
        }
        let entry = self.find(&id.to_string())?;
        if moment.machine.is_none() {
            return Ok(entry);
        }
        self.start(&entry, StartMode::default()).await?;
        self.find(&id.to_string())
    }

    /// Puts a moment's files in place of those of a sandbox that does not run.
    fn replace(&self, entry: &Entry, moment: &Moment) -> Result<()> {
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
        let Some(_lock) = self.store().try_lock(id)? else {
            return Err(in_the_way(entry.state.status));
        };
        let paths = self.store().layout().sandbox(id);
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

/// Whether two records are of one sandbox. An id alone does not say so: a stranger's snapshot may
/// name any. Paths are of the host that wrote them.
fn is_same(ours: &SandboxRecord, theirs: &SandboxRecord) -> bool {
    let without_paths = |record: &SandboxRecord| {
        let mut record = record.clone();
        record.image.rootfs = std::path::PathBuf::new();
        record.spec.kernel = None;
        record
    };
    without_paths(ours) == without_paths(theirs)
}
