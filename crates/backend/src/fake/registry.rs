//! The fake's records: which machine is in which directory.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::inner::Inner;

/// The machines of one [`super::FakeBackend`], by directory. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<Records>>);

type Records = Vec<(PathBuf, Arc<Inner>)>;

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Records {
        self.lock().clone()
    }

    /// Records a machine in place of what was recorded in its directory.
    pub(super) fn put(&self, run_dir: &Path, machine: Arc<Inner>) {
        let mut machines = self.lock();
        machines.retain(|(path, _)| path != run_dir);
        machines.push((run_dir.to_owned(), machine));
    }

    pub(super) fn find(&self, run_dir: &Path) -> Option<Arc<Inner>> {
        let machines = self.lock();
        let found = machines.iter().find(|(path, _)| path == run_dir);
        found.map(|(_, machine)| Arc::clone(machine))
    }

    pub(super) fn remove(&self, run_dir: &Path) {
        self.lock().retain(|(path, _)| path != run_dir);
    }

    /// Records a machine in another directory.
    pub(super) fn rename(&self, machine: &Arc<Inner>, run_dir: &Path) {
        let mut machines = self.lock();
        machines.retain(|(_, other)| !Arc::ptr_eq(other, machine));
        machines.push((run_dir.to_owned(), Arc::clone(machine)));
    }
}
