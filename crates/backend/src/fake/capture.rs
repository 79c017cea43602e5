//! The fake's capture: all of it is kept in this process between the moment and the files.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Bug,
    contents::{Contents, disk_failed},
    guest::HEAD_WORDS,
    inner::Inner,
    snapshot,
};
use crate::{BoxFuture, Capture, CapturePlan, Error, ErrorKind, Result};

/// A capture that was begun.
#[derive(Debug)]
pub(super) struct FakeCapture {
    inner: Arc<Inner>,
    plan: CapturePlan,
    moment: Option<Contents>,
    early: Contents,
    caught_up: bool,
    whole: bool,
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::WrongState, what)
}

impl FakeCapture {
    pub(super) fn begin(inner: Arc<Inner>, mut plan: CapturePlan) -> Result<Self> {
        inner.alive()?;
        if plan.disks.len() != inner.disks().len() {
            return Err(Error::new(
                ErrorKind::InvalidSpec,
                "Another number of disks",
            ));
        }
        if !inner.begin_capture() {
            return Err(wrong("There is a capture already"));
        }
        if inner.has(Bug::AlwaysCapturesMemory) && plan.memory.is_none() {
            let beside = |name: &str| plan.disks.first().map(|disk| disk.with_file_name(name));
            plan.memory = beside("memory")
                .zip(beside("state"))
                .map(|(memory, state)| crate::SnapshotFiles { memory, state });
        }
        // Made before the files: from here on, a failure is cleared away by a drop.
        let mut capture = Self {
            early: inner.contents()?,
            plan: CapturePlan {
                memory: None,
                disks: Vec::new(),
            },
            inner,
            moment: None,
            caught_up: false,
            whole: false,
        };
        let memory = plan.memory.clone();
        let memory = memory.map(|files| [files.memory, files.state]);
        let wanted: Vec<PathBuf> = memory
            .into_iter()
            .flatten()
            .chain(plan.disks.clone())
            .collect();
        let mut made = Vec::new();
        for path in wanted {
            if let Err(error) = capture.make(&path) {
                made.iter()
                    .for_each(|path| drop(fs::remove_file::<&PathBuf>(path)));
                return Err(error);
            }
            made.push(path);
        }
        capture.plan = plan;
        Ok(capture)
    }

    fn make(&self, path: &Path) -> Result<()> {
        let file = if self.inner.has(Bug::OverwritesFiles) {
            File::create(path)
        } else {
            File::create_new(path)
        };
        file.map(drop).map_err(|error| {
            Error::new(ErrorKind::InvalidSpec, "A file cannot be made").because(error)
        })
    }

    fn take_now(&mut self) -> Result<()> {
        let inner = &self.inner;
        if !inner.has(Bug::CapturesTheDead) {
            inner.alive()?;
        }
        if !inner.is_paused() && !inner.has(Bug::CapturesRunning) {
            return Err(wrong("Only a paused machine is taken"));
        }
        if self.moment.is_some() && !inner.has(Bug::TakesAgain) {
            return Err(wrong("The moment was taken already"));
        }
        let mut moment = inner.contents()?;
        if inner.has(Bug::TakesMemoryEarly) {
            moment.words.clone_from(&self.early.words);
        }
        if inner.has(Bug::TakesDiskEarly) {
            moment.disks.clone_from(&self.early.disks);
        }
        if inner.has(Bug::CapturesOnlyTheFirst)
            && let Some(origin) = inner.origin()
        {
            moment.words = origin;
        }
        if inner.has(Bug::RepeatsTheFirstCapture) {
            moment = inner.first_moment(moment);
        }
        if let Some(page) = moment.words.get_mut(100)
            && inner.has(Bug::LosesAPage)
        {
            *page = self.early.words.get(100).copied().unwrap_or(0);
        }
        if inner.has(Bug::LosesZeroes)
            && let Some(origin) = inner.origin()
        {
            let pages = moment.words.iter_mut().zip(origin).skip(HEAD_WORDS);
            pages
                .filter(|(word, _)| **word == 0)
                .for_each(|(word, old)| *word = old);
        }
        if inner.has(Bug::ResumesInCapture) {
            inner.resume();
        }
        self.moment = Some(moment);
        Ok(())
    }

    fn settle_now(mut self) -> Result<()> {
        let mut moment = self
            .moment
            .take()
            .ok_or_else(|| wrong("Nothing was taken"))?;
        if self.inner.has(Bug::TakesMemoryLate) {
            moment.words = self.inner.memory().words();
        }
        if self.inner.has(Bug::TakesDiskLate) {
            moment.disks = self.inner.contents()?.disks;
        }
        if let Some(files) = &self.plan.memory {
            snapshot::make_memory(&files.memory, self.inner.memory_mib)?;
            snapshot::write_memory(&files.memory, &moment.words)?;
            snapshot::write_state(&files.state, self.inner.shape)?;
        }
        for (path, bytes) in self.plan.disks.iter().zip(&moment.disks) {
            fs::write(path, bytes).map_err(disk_failed)?;
        }
        self.whole = true;
        Ok(())
    }
}

impl Capture for FakeCapture {
    /// The first look finds too much, so that callers catch up.
    fn fits(&mut self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(self.caught_up || self.inner.is_paused()) })
    }

    fn catch_up(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if self.moment.is_some() {
                return Err(wrong("The moment was taken already"));
            }
            self.early = self.inner.contents()?;
            self.caught_up = true;
            Ok(())
        })
    }

    fn take(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.take_now() })
    }

    fn settle(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.settle_now() })
    }
}

impl Drop for FakeCapture {
    fn drop(&mut self) {
        self.inner.end_capture();
        if self.whole || self.inner.has(Bug::LeavesFiles) {
            return;
        }
        if let Some(files) = &self.plan.memory {
            drop(fs::remove_file(&files.memory));
            drop(fs::remove_file(&files.state));
        }
        for disk in &self.plan.disks {
            drop(fs::remove_file(disk));
        }
    }
}
