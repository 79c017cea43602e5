//! Captures of machines that live on.
//!
//! A sandbox's machine is restored from a template's memory file, mapped privately. What it has in
//! common with the template is copied file to file while it runs; in the pause only what it has
//! changed is read, and its devices. When that is too much for a pause, and for machines that were
//! not restored, QEMU sends memory ahead itself. What is neither is captured whole in the pause.
//!
//! Locks: none is held across an await but the machine's [`CaptureGuard`], which a capture holds until all
//! that it set up in QEMU has been taken down.

mod ahead;
mod blocks;
mod busy;
mod devices;
mod disks;
mod files;
mod memory;
mod pages;
mod rounds;

use std::{fs, mem, sync::Arc};

use cofferdam_backend::{
    BoxFuture, Capture, CapturePlan, Error, ErrorKind, MachineStatus, Result, SnapshotFiles,
};
use tokio::runtime::Handle;

pub(crate) use memory::touched;

use crate::{
    control,
    controlled::{CaptureGuard, Controlled},
};
use disks::DiskCopy;
use files::Files;
use memory::MemoryCapture;

/// A capture of one machine that was begun.
#[derive(Debug)]
pub(crate) struct QemuCapture {
    machine: Arc<Controlled>,
    phase: Phase,
    /// Where memory goes.
    memory_files: Option<SnapshotFiles>,
    memory: Option<MemoryCapture>,
    disks: Vec<DiskCopy>,
    /// What it has made, removed unless it comes to its end.
    files: Files,
    guard: Option<CaptureGuard>,
    /// Where what is left of it is taken down when it is dropped.
    runtime: Handle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begun,
    Taken,
    /// A step was not finished.
    Failed,
}

impl QemuCapture {
    /// Copies ahead what can be; the machine runs or not.
    pub(crate) async fn begin(machine: Arc<Controlled>, plan: CapturePlan) -> Result<Self> {
        machine.alive()?;
        check(&machine, &plan)?;
        let guard = machine.captures.take_turn().await?;
        let number = guard.number();
        let mut capture = Self {
            files: Files::default(),
            phase: Phase::Failed,
            memory_files: plan.memory.clone(),
            memory: None,
            disks: Vec::new(),
            guard: Some(guard),
            runtime: Handle::current(),
            machine,
        };
        // From here on, whatever fails is taken down by dropping what there is.
        let begun = capture.copy_ahead(plan, number).await;
        capture.or_gone(begun).await?;
        capture.phase = Phase::Begun;
        Ok(capture)
    }

    /// Disks first: what the guest changes in memory after it was sent ahead has to be sent again
    /// in the pause.
    async fn copy_ahead(&mut self, plan: CapturePlan, number: u64) -> Result<()> {
        let machine = Arc::clone(&self.machine);
        if machine.status() == MachineStatus::Paused {
            control::activate_disks(&machine.qmp).await?;
        }
        let pairs = machine.disks.iter().zip(plan.disks);
        for (disk, path) in pairs {
            self.files.add(path.clone());
            let maker = self.files.maker();
            self.disks
                .push(DiskCopy::new(disk.clone(), path, number, maker));
        }
        for disk in &mut self.disks {
            disk.copy_ahead(&machine.qmp).await?;
        }
        self.bring_down().await?;
        self.copy_memory_ahead(number).await
    }

    async fn copy_memory_ahead(&mut self, number: u64) -> Result<()> {
        let Some(files) = self.memory_files.clone() else {
            return Ok(());
        };
        let memory = MemoryCapture::begin(&self.machine, files, number, &mut self.files);
        self.memory = Some(memory.await?);
        self.bring_down().await
    }

    async fn fits_now(&mut self) -> Result<bool> {
        if self.machine.status() != MachineStatus::Running {
            return Ok(true);
        }
        let memory = match &self.memory {
            Some(memory) => memory.fits().await?,
            None => true,
        };
        Ok(memory && rounds::fit(&self.disks, &self.machine.qmp).await?)
    }

    /// Memory that was sent ahead is sent anew, as QEMU may end a migration as soon as it has sent
    /// what has changed.
    async fn catch_up_now(&mut self) -> Result<()> {
        self.expect_begun()?;
        self.phase = Phase::Failed;
        let caught_up = self.copy_again().await;
        self.or_gone(caught_up).await?;
        self.phase = Phase::Begun;
        Ok(())
    }

    async fn copy_again(&mut self) -> Result<()> {
        match &mut self.memory {
            Some(memory) if memory.is_behind().await? => memory.give_up().await,
            _ => return self.bring_down().await,
        }
        if let Some(files) = &self.memory_files {
            for path in [&files.memory, &files.state] {
                // One that stays is an error of who makes it again.
                let _ = fs::remove_file(path);
            }
        }
        let number = self.guard.as_ref().map_or(0, CaptureGuard::number);
        self.copy_memory_ahead(number).await
    }

    fn expect_begun(&self) -> Result<()> {
        match self.phase {
            Phase::Begun => Ok(()),
            Phase::Taken => Err(wrong_state("The moment was taken already")),
            Phase::Failed => Err(wrong_state("The capture has failed")),
        }
    }

    /// A paused machine writes nothing.
    async fn bring_down(&mut self) -> Result<()> {
        match self.machine.status() {
            MachineStatus::Running => rounds::bring_down(&mut self.disks, &self.machine.qmp).await,
            _ => Ok(()),
        }
    }

    async fn take_now(&mut self) -> Result<()> {
        let machine = &self.machine;
        machine.alive()?;
        self.expect_begun()?;
        if machine.status() != MachineStatus::Paused {
            let error = wrong_state("Only a paused machine can be captured");
            return Err(error.hint("Pause it first"));
        }
        self.phase = Phase::Failed;
        let taken = self.take_all().await;
        self.or_gone(taken).await?;
        self.phase = Phase::Taken;
        Ok(())
    }

    async fn take_all(&mut self) -> Result<()> {
        for disk in &mut self.disks {
            disk.pin(&self.machine.qmp).await?;
        }
        let Some(memory) = &mut self.memory else {
            return Ok(());
        };
        if memory.lets_go_of_disks() {
            finish(&mut self.disks, &self.machine).await?;
        }
        memory.take(&self.machine).await
    }

    async fn settle_now(mut self) -> Result<()> {
        if self.phase != Phase::Taken {
            return Err(wrong_state("Nothing was taken that could settle"));
        }
        let settled = self.settle_all().await;
        self.or_gone(settled).await?;
        self.files.keep();
        Ok(())
    }

    async fn settle_all(&mut self) -> Result<()> {
        finish(&mut self.disks, &self.machine).await?;
        match self.memory.take() {
            Some(memory) => memory.settle(&self.machine.shape).await,
            None => Ok(()),
        }
    }

    /// A step that failed because the machine ended meanwhile says so.
    async fn or_gone<T>(&self, result: Result<T>) -> Result<T> {
        self.machine.or_gone(result).await
    }
}

/// Waits until disks that were pinned are whole, and takes down what was set up for that.
async fn finish(disks: &mut [DiskCopy], machine: &Controlled) -> Result<()> {
    for disk in disks.iter_mut() {
        disk.finish().await?;
    }
    for disk in disks {
        disk.take_down(&machine.qmp).await?;
    }
    Ok(())
}

fn wrong_state(what: &str) -> Error {
    Error::new(ErrorKind::WrongState, what)
}

/// Refuses a plan that does not fit the machine or what is there already.
fn check(machine: &Controlled, plan: &CapturePlan) -> Result<()> {
    let (planned, disks) = (plan.disks.len(), machine.disks.len());
    if planned != disks {
        let what = format!("The machine has `{disks}` writable disks, not `{planned}`");
        return Err(Error::new(ErrorKind::InvalidSpec, what));
    }
    let memory = plan.memory.iter();
    let paths = memory.flat_map(|files| [&files.memory, &files.state]);
    for path in paths.chain(&plan.disks) {
        // A link that leads nowhere is there too.
        if path.symlink_metadata().is_ok() {
            let what = format!("The file `{}` exists already", path.display());
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
    }
    Ok(())
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Io, "The capture was cut off").because(error))?
}

impl Capture for QemuCapture {
    fn fits(&mut self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.fits_now())
    }

    fn catch_up(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.catch_up_now())
    }

    fn take(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.take_now())
    }

    fn settle(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(self.settle_now())
    }
}

impl Drop for QemuCapture {
    /// Files are gone when this returns; what is set up in QEMU goes as soon as it answers, and the
    /// next capture waits for that.
    fn drop(&mut self) {
        self.files.remove();
        let (Some(guard), disks) = (self.guard.take(), mem::take(&mut self.disks)) else {
            return;
        };
        guard.release();
        let (memory, machine) = (self.memory.take(), Arc::clone(&self.machine));
        self.runtime.spawn(async move {
            if let Some(memory) = memory {
                memory.abandon().await;
            }
            for mut disk in disks {
                // Nobody is left to be told; a machine that is gone has nothing to take down.
                let _ = disk.take_down(&machine.qmp).await;
            }
            drop(guard);
        });
    }
}
