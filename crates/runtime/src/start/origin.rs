//! Where a sandbox's machine comes from, and what is done when that way is closed.
//!
//! A template only saves time. One that cannot be made, found, or restored is passed over for the
//! next slower way, down to a boot, and each such step is noted for people.

use std::path::Path;

use cofferdam_backend::{Backend, MachineSpec, SnapshotFiles};
use cofferdam_base::fs;
use cofferdam_proto::IdentityCause;
use cofferdam_types::UpperSpec;
use tokio::task::JoinHandle;

use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, lift},
        task::log_line,
    },
    host::guest::GuestFiles,
    link::{Clock, workload_limits},
    store::{resume::Resume, uppers},
    supervisor::Starting,
    template::{self, HeldWorkload, MachineShape, RootShape, Template, TemplateKind, TemplatePlan},
};

/// Where a machine comes from.
pub(super) enum Origin {
    /// Another sandbox's moment, or its own from a snapshot.
    Resume(SnapshotFiles, IdentityCause),
    /// A template with this very workload running.
    Workload(Template),
    Image(Template),
    Base(Template),
    Boot,
}

impl Origin {
    pub(super) const fn template(&self) -> Option<&Template> {
        match self {
            Self::Workload(template) | Self::Image(template) | Self::Base(template) => {
                Some(template)
            }
            Self::Resume(..) | Self::Boot => None,
        }
    }

    const fn kind(&self) -> Option<TemplateKind> {
        match self {
            Self::Workload(_) => Some(TemplateKind::Workload),
            Self::Image(_) => Some(TemplateKind::Image),
            Self::Base(_) => Some(TemplateKind::Base),
            Self::Resume(..) | Self::Boot => None,
        }
    }
}

/// An image template to make.
#[derive(Debug)]
pub(crate) struct WantedTemplate {
    pub(crate) guest: GuestFiles,
    pub(crate) plan: TemplatePlan,
}

/// The ways of one start, from the quickest on.
pub(super) struct StartMethods<'a> {
    of: Starting<'a>,
    backend: &'a dyn Backend,
    guest: &'a GuestFiles,
    shape: &'a MachineShape,
    /// Whether the sandbox has no disk of its own yet. One that has run has, and no image
    /// template's guest knows it.
    fresh: bool,
    /// The quickest kind of template that is still to be tried; `None` for a boot.
    next: Option<TemplateKind>,
    /// What went wrong with quicker ways, one sentence each.
    pub(super) notes: Vec<String>,
}

impl<'a> StartMethods<'a> {
    pub(super) fn new(
        of: Starting<'a>,
        backend: &'a dyn Backend,
        guest: &'a GuestFiles,
        shape: &'a MachineShape,
    ) -> Self {
        let fresh = !of.paths.upper().exists();
        Self {
            of,
            backend,
            guest,
            shape,
            fresh,
            next: Some(TemplateKind::Workload),
            notes: Vec::new(),
        }
    }

    /// Finds the quickest way that is left and makes the upper that goes with it.
    pub(super) async fn choose(&mut self, clock: &mut Clock) -> Result<Origin> {
        if let Some(mut resume) = Resume::read(self.of.paths)? {
            resume.begin(self.of.paths)?;
            clock.lap("snapshot");
            return Ok(Origin::Resume(resume.files(), resume.cause()));
        }
        if self.fresh
            && let Some(origin) = self.image_template(clock)?
        {
            return Ok(origin);
        }
        let upper = self.of.paths.upper();
        if self.fresh && !upper.exists() {
            uppers::make(self.of.layout, self.shape.upper_bytes, &upper)?;
        }
        if self.next.is_none() {
            return Ok(Origin::Boot);
        }
        self.next = Some(TemplateKind::Base);
        let base =
            template::ensure_base(self.of.layout, self.backend, self.guest, self.shape, false)
                .await;
        match base {
            Ok(base) => {
                clock.lap("base template");
                Ok(Origin::Base(base))
            }
            Err(error) => {
                self.next = None;
                self.note("The base template cannot be made", &error, clock);
                Ok(Origin::Boot)
            }
        }
    }

    /// The template of the sandbox's workload or image, with the sandbox's upper made from it.
    fn image_template(&mut self, clock: &mut Clock) -> Result<Option<Origin>> {
        let record = &self.of.entry.record;
        let Some(root) = RootShape::of(&record.spec, record.image.manifest) else {
            return Ok(None);
        };
        let compatibility = lift(self.backend.compatibility_key())?;
        if self.next == Some(TemplateKind::Workload) {
            let limits = workload_limits(&record.spec);
            let held = HeldWorkload {
                process: &record.process,
                limits: &limits,
                shm_bytes: record.spec.shm_size.bytes(),
                read_only: record.spec.upper == UpperSpec::ReadOnly,
            };
            let (key, _) =
                template::workload_key(self.guest, &compatibility, self.shape, &root, held);
            // A workload that runs is given no mounts.
            if record.spec.tmpfs.is_empty()
                && let Some(found) = self.usable(TemplateKind::Workload, &key, clock)?
            {
                return Ok(Some(Origin::Workload(found)));
            }
            self.next = Some(TemplateKind::Image);
        }
        if self.next == Some(TemplateKind::Image) {
            let (key, _) = template::image_key(self.guest, &compatibility, self.shape, &root);
            if let Some(found) = self.usable(TemplateKind::Image, &key, clock)? {
                return Ok(Some(Origin::Image(found)));
            }
            if let Some(missing) = template::recent_failure(self.of.layout, &key) {
                self.note("The image template cannot be made", &missing.error(), clock);
            }
        }
        Ok(None)
    }

    /// The template of a key if there is a sound one and its upper could be copied.
    fn usable(
        &mut self,
        kind: TemplateKind,
        key: &str,
        clock: &mut Clock,
    ) -> Result<Option<Template>> {
        let found = match Template::look_for(self.of.layout, key) {
            Ok(found) => found,
            Err(error) => {
                self.note(&format!("The {kind} template was removed"), &error, clock);
                None
            }
        };
        let Some(found) = found else { return Ok(None) };
        match lift(cofferdam_disk::copy_sparse(
            &found.upper(),
            &self.of.paths.upper(),
        )) {
            Ok(()) => {
                clock.lap(&format!("{kind} template"));
                Ok(Some(found))
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => Err(error),
            Err(error) => {
                self.clear_upper()?;
                found.give_up();
                self.note(&format!("The {kind} template was removed"), &error, clock);
                Ok(None)
            }
        }
    }

    /// Takes over what the makers of `origin` and its guest have noted.
    pub(super) fn came_up(&mut self, origin: &Origin, of_guest: Vec<String>, clock: &mut Clock) {
        let of_template = origin.template().map(Template::notes);
        for note in of_template.into_iter().flatten().chain(of_guest) {
            self.add(note, clock);
        }
    }

    /// Goes on to the next slower way after a machine from `origin` did not come up.
    ///
    /// # Errors
    /// `error`, when there is no other way: a snapshot's machine is what it is, and nothing is
    /// slower than a boot.
    pub(super) fn give_up(
        &mut self,
        origin: &Origin,
        error: Error,
        clock: &mut Clock,
    ) -> Result<()> {
        let (Some(template), Some(kind)) = (origin.template(), origin.kind()) else {
            return Err(error);
        };
        // Others fail for reasons of the host, which pass.
        let is_bad = matches!(
            error.kind(),
            ErrorKind::BadSnapshot | ErrorKind::GuestFailed
        );
        let became = if is_bad {
            template.give_up();
            "could not be used and was removed"
        } else {
            "could not be used"
        };
        self.note(&format!("The {kind} template {became}"), &error, clock);
        self.next = match kind {
            TemplateKind::Workload => Some(TemplateKind::Image),
            TemplateKind::Image => Some(TemplateKind::Base),
            TemplateKind::Base => None,
        };
        if kind == TemplateKind::Base {
            // Nothing was written to the upper: it is mounted after the guest was ready.
            return Ok(());
        }
        self.clear_upper()
    }

    fn clear_upper(&self) -> Result<()> {
        fs::remove_file_if_present(&self.of.paths.upper())
            .map_err(|error| io("Could not remove an upper disk", error))
    }

    fn note(&mut self, what: &str, error: &Error, clock: &mut Clock) {
        let note = format!("{what}: {}", error.chain());
        log_line(&note);
        self.add(note, clock);
    }

    /// Adds a sentence to the notes and to the table of stages.
    fn add(&mut self, note: String, clock: &mut Clock) {
        clock.lap_noted(&note);
        self.notes.push(note);
    }

    /// What would have made this start a quicker one; `None` if there is no such thing, or if it
    /// could not be made a short time ago.
    pub(super) fn wanted_template(&self, origin: &Origin) -> Option<WantedTemplate> {
        if !matches!(origin, Origin::Base(_) | Origin::Boot) {
            return None;
        }
        let record = &self.of.entry.record;
        let root = RootShape::of(&record.spec, record.image.manifest)?;
        let plan = TemplatePlan {
            shape: self.shape.clone(),
            root,
            rootfs: record.image.rootfs.clone(),
            image_name: record.image.name.clone(),
            warm_ups: Vec::new(),
            workload: None,
            limit: template::DEFAULT_TIMEOUT,
            auto_warm_ups: record.image.auto_warm_ups.clone(),
        };
        Some(WantedTemplate {
            guest: self.guest.clone(),
            plan,
        })
    }
}

/// Has what the guest will touch read from the disk while QEMU starts: after a reboot it comes in
/// one stream then and not page by page as the guest touches it. Where that is not known, all
/// that the guest remembers; on fast disks that gains nothing, on slow ones seeks. See
/// `docs/start.md`.
///
/// The task returns what went wrong. Nothing waits for it.
pub(super) fn read_ahead(origin: &Origin) -> Option<JoinHandle<Vec<String>>> {
    let (memory, template) = match (origin, origin.template()) {
        (Origin::Resume(files, _), _) => (files.memory.clone(), None),
        (_, Some(template)) => (template.files().memory, Some(template.clone())),
        (_, None) => return None,
    };
    Some(tokio::task::spawn_blocking(move || {
        read_memory_ahead(&memory, template.as_ref())
    }))
}

/// Reads a memory file ahead, as far as its template's record says; returns what went wrong.
///
/// # Blocking
/// It waits for the disk.
fn read_memory_ahead(memory: &Path, template: Option<&Template>) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |what: &str, error: &Error| {
        let sentence = format!("{what}: {}", error.chain());
        log_line(&sentence);
        notes.push(sentence);
    };
    let wanted = template.map_or(Ok(None), Template::working_set);
    let wanted = wanted.unwrap_or_else(|error| {
        note("All of the template's memory is read ahead", &error);
        None
    });
    if let Err(error) = lift(cofferdam_disk::read_ahead(memory, wanted.as_deref())) {
        note("Memory is not read ahead", &error);
    }
    notes
}

/// The machine of a sandbox.
pub(super) fn machine_spec(
    of: Starting<'_>,
    guest: &GuestFiles,
    shape: &MachineShape,
) -> MachineSpec {
    let (record, paths) = (&of.entry.record, of.paths);
    MachineSpec {
        console_log: paths.console(),
        vmm_log: paths.vmm(),
        run_dir: paths.run.clone(),
        ..template::machine_spec(
            record.id,
            guest,
            shape,
            record.image.rootfs.clone(),
            paths.upper(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_read_ahead_is_told() {
        let home = tempfile::tempdir().unwrap();
        let memory = home.path().join("memory");
        std::fs::write(&memory, [1; 4096]).unwrap();
        assert!(read_memory_ahead(&memory, None).is_empty());
        let notes = read_memory_ahead(&home.path().join("none"), None);
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].starts_with("Memory is not read ahead: "),
            "{notes:?}"
        );
    }
}
