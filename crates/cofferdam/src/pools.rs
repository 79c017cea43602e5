//! Pools of standby machines.

use cofferdam_runtime::{PoolInfo, PoolOptions, Result, image::Progress};
use cofferdam_types::SandboxSpec;

use crate::Coffer;

/// The pools of a store.
#[derive(Clone, Copy, Debug)]
pub struct Pools<'a> {
    coffer: &'a Coffer,
}

impl<'a> Pools<'a> {
    pub(crate) const fn new(coffer: &'a Coffer) -> Self {
        Self { coffer }
    }

    /// Makes a pool of machines for `spec`'s image and shape, resumed and warm, and waits until it
    /// is full. Sandboxes of that shape and image claim one when they start, and another takes its
    /// place.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NameTaken`], [`crate::ErrorKind::NoMemory`], and those of the image,
    /// the spec or the commands.
    pub async fn create(
        &self,
        spec: SandboxSpec,
        options: &PoolOptions,
        progress: &dyn Progress,
    ) -> Result<PoolInfo> {
        self.coffer
            .runtime
            .create_pool(spec, options, progress)
            .await
    }

    /// Every pool, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PoolInfo> {
        self.coffer.runtime.pools()
    }

    /// Ends a pool's standbys and removes it. Sandboxes that claimed one go on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`].
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.coffer.runtime.remove_pool(name).await
    }
}
