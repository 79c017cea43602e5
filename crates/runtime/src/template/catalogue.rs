//! Making templates by hand, listing and removing them.

use std::time::Duration;

use cofferdam_image::{ImageStore, Progress};
use cofferdam_types::{Digest, SandboxSpec, UpperSpec};
use serde::{Deserialize, Serialize};

use super::{
    DEFAULT_TIMEOUT, MachineShape, RootShape, Template, TemplateKind,
    background::build_and_wait,
    list::{drop_locks, templates},
    plan::{StartedWorkload, TemplatePlan},
    warm::MAX_READY_BYTES,
};
use crate::{
    base::error::{Error, ErrorKind, Result, lift},
    link::workload_limits,
    spec::{interpreters::AutoWarmUps, process},
    store::{Store, images},
};

/// A template as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateInfo {
    /// Its key.
    pub key: String,
    /// What it is.
    pub kind: TemplateKind,
    /// The image, as it was asked for; none of a base template.
    pub image: Option<String>,
    /// Digest of the image's manifest.
    pub manifest: Option<Digest>,
    /// Commands that somebody had it run, and that run in it.
    pub commands: Vec<String>,
    /// Processors.
    pub vcpus: u8,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Bytes that it uses on the disk.
    pub disk_bytes: u64,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// Everything that must match for it to be used.
    pub about: Vec<String>,
}

/// What a template is to have run.
#[derive(Clone, Debug, Default)]
pub struct WarmUp {
    /// Command lines that run to their end in the image, one after another.
    pub commands: Vec<Vec<String>>,
    /// Text in the workload's output: the template holds the workload running, captured once it
    /// has printed this.
    pub wait_for: Option<String>,
    /// How long each command may take, and the workload until it has printed that; ten minutes
    /// when absent.
    pub timeout: Option<Duration>,
}

/// What is done with the templates of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Templates<'a> {
    pub(crate) store: &'a Store,
    pub(crate) images: &'a ImageStore,
}

impl Templates<'_> {
    /// Makes the template from which sandboxes of `spec`'s shape and image start, in place of the
    /// one that there is. With [`WarmUp::wait_for`] it holds `spec`'s workload running, and
    /// sandboxes with that very workload start from there.
    ///
    /// # Errors
    /// Of the image, the spec, the commands, or the host.
    pub(crate) async fn build(
        &self,
        spec: SandboxSpec,
        warm_up: &WarmUp,
        progress: &dyn Progress,
    ) -> Result<TemplateInfo> {
        crate::host::admission::spec(&spec)?;
        let image = images::find_image(self.store.layout(), self.images, &spec, progress).await?;
        let rootfs = lift(self.images.rootfs(&image, progress))?;
        let shape = MachineShape::of(&spec, rootfs.disk_bytes);
        let root = RootShape::of(&spec, image.manifest).filter(|_| spec.tmpfs.is_empty());
        let Some(root) = root else {
            let what = "A template cannot have tmpfs mounts of its own";
            return Err(Error::new(ErrorKind::Unsupported, what).hint("Leave `--tmpfs` to `run`"));
        };
        let command = |argv: &Vec<String>| {
            let spec = SandboxSpec {
                entrypoint: Some(Vec::new()),
                command: argv.clone(),
                ..spec.clone()
            };
            process::merge(&spec, &image.config, BUILDER)
        };
        let warm_ups = warm_up
            .commands
            .iter()
            .map(command)
            .collect::<Result<Vec<_>>>()?;
        let workload = match &warm_up.wait_for {
            None => None,
            Some(ready) if ready.is_empty() || ready.len() > MAX_READY_BYTES => {
                let what = format!("The text to wait for is not of 1 to {MAX_READY_BYTES} bytes");
                return Err(Error::new(ErrorKind::InvalidSpec, what));
            }
            Some(ready) => Some(StartedWorkload {
                process: process::merge(&spec, &image.config, BUILDER)?,
                limits: workload_limits(&spec),
                shm_bytes: spec.shm_size.bytes(),
                read_only: spec.upper == UpperSpec::ReadOnly,
                ready: ready.clone(),
                on_fork: spec.on_fork.clone(),
            }),
        };
        let plan = TemplatePlan {
            shape,
            root,
            rootfs: rootfs.path,
            image_name: spec.image.clone(),
            warm_ups,
            workload,
            limit: warm_up.timeout.unwrap_or(DEFAULT_TIMEOUT),
            auto_warm_ups: AutoWarmUps::of(&spec, &image.config),
        };
        let layout = self.store.layout();
        let backend = crate::host::backend(layout, spec.backend.as_deref())?;
        build_and_wait(layout, backend.name(), spec.kernel.as_deref(), plan).await
    }

    /// Every template that can be used, newest first.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn list(&self) -> Result<Vec<TemplateInfo>> {
        let mut all: Vec<_> = templates(self.store.layout())?
            .iter()
            .filter_map(|template| template.info().ok())
            .collect();
        all.sort_by_key(|info| std::cmp::Reverse(info.created_ns));
        Ok(all)
    }

    /// Removes the templates that `name` means: one by the start of its key, or all of an image.
    /// Sandboxes that came from them go on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`].
    pub(crate) fn remove(&self, name: &str) -> Result<Vec<String>> {
        let layout = self.store.layout();
        let is_hex = !name.is_empty() && name.chars().all(|c| c.is_ascii_hexdigit());
        let all = self.list()?;
        let by_key = |info: &&TemplateInfo| is_hex && info.key.starts_with(name);
        let by_image = |info: &&TemplateInfo| info.image.as_deref() == Some(name);
        let mut found: Vec<_> = all.iter().filter(by_image).collect();
        if found.is_empty() {
            found = all.iter().filter(by_key).collect();
            if found.len() > 1 {
                let what = format!("More than one template has a key that starts with `{name}`");
                return Err(Error::new(ErrorKind::Ambiguous, what).hint("Give more digits"));
            }
        }
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("There is no template `{name}`"),
            )
            .hint("List them with `coffer template list`"));
        }
        for info in &found {
            if let Some(template) = Template::at(&layout.templates().join(&info.key)) {
                template.remove()?;
            }
        }
        drop_locks(layout);
        Ok(found.into_iter().map(|info| info.key.clone()).collect())
    }

    /// Removes the templates that nothing needs: those of images that are gone and, where there
    /// is no image and no sandbox, all others that starts have made. With `all` also every other
    /// one that the next start of its kind makes again, and so all but those that somebody has
    /// built with commands. Gives what was removed.
    ///
    /// # Errors
    /// When a store cannot be read, or a template not be removed.
    pub(crate) fn drop_unneeded(&self, all: bool) -> Result<Vec<TemplateInfo>> {
        let images = lift(self.images.list())?;
        let is_empty = images.is_empty() && self.store.list()?.is_empty();
        let mut removed = Vec::new();
        for template in templates(self.store.layout())? {
            let Ok(info) = template.info() else { continue };
            let is_lost = match (info.kind, info.manifest) {
                (TemplateKind::Base, _) | (_, None) => is_empty,
                (_, Some(manifest)) => !images.iter().any(|image| image.manifest == manifest),
            };
            if is_lost || all && info.commands.is_empty() {
                template.remove()?;
                removed.push(info);
            }
        }
        drop_locks(self.store.layout());
        Ok(removed)
    }
}

/// Host name of a template's processes while it is made.
const BUILDER: cofferdam_types::SandboxId = cofferdam_types::SandboxId::from_random([0; 32]);
