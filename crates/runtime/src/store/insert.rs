//! New sandboxes: the claim of a name, then the directory, which appears whole.

use std::{fs as std_fs, path::Path};

use cofferdam_base::fs;

use super::{
    Store,
    layout::SandboxPaths,
    names::Claim,
    random_name::random_name,
    reconcile,
    record::{SandboxRecord, SandboxState},
};
use crate::base::{
    error::{Error, ErrorKind, Result, io},
    random,
};

impl Store {
    /// Adds a sandbox; `fill` puts further files into its directory before it appears.
    ///
    /// # Errors
    /// [`ErrorKind::NameTaken`], the file system's, or that of `fill`.
    pub(crate) fn insert(
        &self,
        record: &SandboxRecord,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<SandboxPaths> {
        let paths = self.layout.sandbox(record.id);
        let staging = fs::staging_path(&paths.dir);
        let failed = |error| io(format!("Could not make sandbox `{}`", record.name), error);
        // Before the claim, which without it would be a dead process's.
        fs::create_private_dir(&staging).map_err(failed)?;
        let write = || {
            fs::publish_json(&staging.join("sandbox.json"), record, false).map_err(failed)?;
            let state = SandboxState::created();
            fs::publish_json(&staging.join("state.json"), &state, false).map_err(failed)?;
            fill(&staging)?;
            std_fs::rename(&staging, &paths.dir).map_err(failed)
        };
        let made = self.claim(record).and_then(|()| {
            write().inspect_err(|_| {
                // The first error is the one to report.
                let _ = self.names.release_of(record.id, Some(&record.name));
            })
        });
        if let Err(error) = made {
            let _ = fs::remove_dir_if_present(&staging);
            return Err(error);
        }
        Ok(paths)
    }

    /// Claims a name for a sandbox and makes its directory, into which `fill` puts more.
    pub(crate) fn insert_named(
        &self,
        record: &mut SandboxRecord,
        fill: impl Fn(&Path) -> Result<()>,
    ) -> Result<()> {
        if let Some(name) = record.spec.name.clone() {
            record.name = name;
            return self.insert(record, fill).map(drop);
        }
        // Of two million names one is free soon; the bound is for a broken store.
        for _ in 0..100 {
            record.name = random_name(random::bytes()?);
            match self.insert(record, &fill) {
                Err(error) if error.kind() == ErrorKind::NameTaken => {}
                other => return other.map(drop),
            }
        }
        Err(Error::new(ErrorKind::NameTaken, "No name is free").hint("Give one with `--name`"))
    }

    /// Claims a sandbox's name, also from a process that was killed before it made its sandbox.
    fn claim(&self, record: &SandboxRecord) -> Result<()> {
        let name = &record.name;
        if !self.names.is_complete() && self.id_of_name(name)?.is_some_and(|id| id != record.id) {
            return Err(taken(name));
        }
        let Claim::HeldBy(holder) = self.names.claim(name, record.id)? else {
            return Ok(());
        };
        // The name of this very sandbox stays behind where a removal could not write.
        let is_taken = holder.id().is_some_and(|id| match id == record.id {
            true => reconcile::is_there_beside_us(self, id),
            false => reconcile::is_there(self, id),
        });
        if is_taken {
            return Err(taken(name));
        }
        self.names.release(name, &holder)?;
        match self.names.claim(name, record.id)? {
            Claim::Made => Ok(()),
            Claim::HeldBy(_) => Err(taken(name)),
        }
    }

    /// Whether a sandbox has this very name, or is being made with it. A claim that nobody will
    /// keep is forgotten.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn is_taken(&self, name: &str) -> Result<bool> {
        let Some(holder) = self.names.holder(name)? else {
            return Ok(self.id_of_name(name)?.is_some());
        };
        if holder.id().is_some_and(|id| reconcile::is_there(self, id)) {
            return Ok(true);
        }
        self.names.release(name, &holder).map(|()| false)
    }
}

fn taken(name: &str) -> Error {
    let what = format!("The name `{name}` is taken by another sandbox");
    Error::new(ErrorKind::NameTaken, what).hint(format!(
        "Choose another name, or remove that one with `coffer rm {name}`"
    ))
}
