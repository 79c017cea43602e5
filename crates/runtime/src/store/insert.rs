//! New sandboxes: the claim of a name, then the directory, which appears whole.

use std::{fs as std_fs, path::Path};

use cofferdam_base::fs;

use super::{
    Store,
    index::IndexEntry,
    layout::SandboxPaths,
    names::random_name,
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
                let _ = self.with_index(|index| index.remove(record.id));
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
        // Of two million names one is free soon; the bound is for a broken index.
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
        let entry = IndexEntry {
            id: record.id,
            name: record.name.clone(),
        };
        let claim = || self.with_index(|index| index.insert(&entry));
        match claim() {
            Err(error)
                if error.kind() == ErrorKind::NameTaken
                    && (self.is_left_over(record)? || !self.is_taken(&record.name)?) =>
            {
                claim()
            }
            other => other,
        }
    }

    /// Whether the name was this very sandbox's, which was removed when no row could be. Then it
    /// is forgotten.
    fn is_left_over(&self, record: &SandboxRecord) -> Result<bool> {
        let ours = self.with_index(|index| index.by_name(&record.name))? == Some(record.id);
        if !ours || reconcile::is_there_beside_us(self, record.id) {
            return Ok(false);
        }
        self.with_index(|index| index.remove(record.id))
            .map(|()| true)
    }

    /// Whether a sandbox has this very name, or is being made with it. A claim that nobody will
    /// keep is forgotten.
    ///
    /// # Errors
    /// The index's.
    pub(crate) fn is_taken(&self, name: &str) -> Result<bool> {
        match self.with_index(|index| index.by_name(name))? {
            Some(id) if reconcile::is_there(self, id) => Ok(true),
            Some(id) => self.with_index(|index| index.remove(id)).map(|()| false),
            None => Ok(false),
        }
    }
}
