//! What an image's template is to hold.

use std::{path::PathBuf, time::Duration};

use cofferdam_proto::ProcessSpec;
use cofferdam_types::ResourceLimits;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_TIMEOUT, HeldWorkload, MachineShape, RootShape};
use crate::spec::interpreters::AutoWarmUps;

/// An image's template as asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TemplatePlan {
    /// The machine.
    pub(crate) shape: MachineShape,
    /// The root and how it is mounted.
    pub(crate) root: RootShape,
    /// The root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// Name by which the image was asked for; for people.
    pub(crate) image_name: String,
    /// Processes that run to their end before the capture, so that what they touched is warm.
    pub(crate) warm_ups: Vec<ProcessSpec>,
    /// The workload, if the template is to hold it running.
    pub(crate) workload: Option<StartedWorkload>,
    /// How long each process may take to its end, and the workload until it is ready.
    #[serde(default = "default_limit")]
    pub(crate) limit: Duration,
    /// What its machines run ahead by themselves.
    #[serde(default)]
    pub(crate) auto_warm_ups: Option<AutoWarmUps>,
}

const fn default_limit() -> Duration {
    DEFAULT_TIMEOUT
}

impl TemplatePlan {
    /// The harmless starts of known interpreters.
    pub(crate) fn interpreters(&self) -> Vec<ProcessSpec> {
        // A template of a running workload is warm by that.
        if self.workload.is_some() {
            return Vec::new();
        }
        let known = self.auto_warm_ups.as_ref().map(AutoWarmUps::interpreters);
        known.unwrap_or_default()
    }

    /// Whether the template's root is read-only: only where the workload runs in it already. Every
    /// other root is made so after the restore.
    pub(crate) fn is_read_only(&self) -> bool {
        self.workload.as_ref().is_some_and(|held| held.read_only)
    }

    /// The command lines that somebody asked for. A start's own template has none.
    pub(crate) fn asked(&self) -> Vec<String> {
        let workload = self.workload.iter().map(|workload| &workload.process);
        let all = self.warm_ups.iter().chain(workload);
        all.map(|process| process.argv.join(" ")).collect()
    }
}

/// A workload that a template holds running.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartedWorkload {
    /// What runs.
    pub(crate) process: ProcessSpec,
    /// Its limits.
    pub(crate) limits: ResourceLimits,
    /// Size of `/dev/shm`, which cannot change under it.
    pub(crate) shm_bytes: u64,
    /// Whether it runs in a read-only root.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// Text in its output that says that it is ready.
    pub(crate) ready: String,
    /// What each start from it runs before its processes go on, unless the sandbox names another.
    #[serde(default)]
    pub(crate) on_fork: Option<String>,
}

impl StartedWorkload {
    /// What of it is in the template's key.
    pub(crate) const fn held(&self) -> HeldWorkload<'_> {
        HeldWorkload {
            process: &self.process,
            limits: &self.limits,
            shm_bytes: self.shm_bytes,
            read_only: self.read_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_image::ImageConfig;
    use cofferdam_types::{Digest, SandboxSpec};

    use super::*;

    #[test]
    fn nobody_has_asked_for_the_harmless_starts_of_interpreters() {
        let spec = SandboxSpec::default();
        let image = ImageConfig {
            cmd: vec!["python3".to_owned()],
            ..ImageConfig::default()
        };
        let root = RootShape::of(&spec, Digest::from_sha256([1; 32]));
        let plan = TemplatePlan {
            shape: MachineShape::of(&spec, 0),
            root: root.unwrap(),
            rootfs: PathBuf::new(),
            image_name: String::new(),
            warm_ups: Vec::new(),
            workload: None,
            limit: DEFAULT_TIMEOUT,
            auto_warm_ups: AutoWarmUps::of(&spec, &image),
        };
        assert_eq!(plan.interpreters().len(), 1);
        assert!(plan.asked().is_empty());
    }
}
