//! The templates from which sandboxes start.

use cofferdam_runtime::{Result, TemplateInfo, WarmUp, image::Progress};
use cofferdam_types::SandboxSpec;

use crate::Coffer;

/// The templates of a store.
#[derive(Clone, Copy, Debug)]
pub struct Templates<'a> {
    coffer: &'a Coffer,
}

impl<'a> Templates<'a> {
    pub(crate) const fn new(coffer: &'a Coffer) -> Self {
        Self { coffer }
    }

    /// Makes the template from which sandboxes of `spec`'s shape and image start, in place of the
    /// one that there is: the root mounted, and everything warm that the commands of `warm_up`
    /// touched. With a text to wait for, the template holds `spec`'s workload running, and
    /// sandboxes with that very workload start from there.
    ///
    /// # Errors
    /// Of the image, the spec, the commands, or the host.
    pub async fn build(
        &self,
        spec: SandboxSpec,
        warm_up: &WarmUp,
        progress: &dyn Progress,
    ) -> Result<TemplateInfo> {
        self.coffer
            .runtime
            .build_template(spec, warm_up, progress)
            .await
    }

    /// Every template that can be used, newest first.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(&self) -> Result<Vec<TemplateInfo>> {
        self.coffer.runtime.templates()
    }

    /// Removes one template by the start of its key, or all of an image by its name; returns
    /// their keys. Sandboxes that came from them go on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Ambiguous`].
    pub fn remove(&self, name: &str) -> Result<Vec<String>> {
        self.coffer.runtime.remove_templates(name)
    }

    /// Removes the templates that nothing needs, those of removed images first of all; returns
    /// what was removed. Removing an image does this by itself.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self) -> Result<Vec<TemplateInfo>> {
        self.coffer.runtime.drop_unneeded_templates(false)
    }

    /// Removes these and all others that the next start of their kind makes again; those that
    /// somebody has built with commands stay. Returns what was removed.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune_all(&self) -> Result<Vec<TemplateInfo>> {
        self.coffer.runtime.drop_unneeded_templates(true)
    }
}
