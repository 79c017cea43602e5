//! What a program chooses for a store, in place of environment variables.

use std::path::{Path, PathBuf};

use cofferdam_base::env_vars;
use cofferdam_image::PullOptions;

use crate::base::error::{Result, io};

/// Choices for a store. What is absent comes from the environment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Choices {
    /// The store's directory, in place of `COFFER_HOME`.
    pub home: Option<PathBuf>,
    /// The `coffer` program, in place of `COFFER_PROGRAM`, one beside this program or in `PATH`.
    pub program: Option<PathBuf>,
    /// The QEMU program, in place of `COFFER_QEMU` and the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// The guest kernel of sandboxes that name none, in place of `COFFER_KERNEL` and the one beside
    /// the program.
    pub kernel: Option<PathBuf>,
    /// The backend of sandboxes that name none, in place of `COFFER_BACKEND`.
    pub backend: Option<String>,
    /// How images are pulled.
    pub pull: PullOptions,
}

impl Choices {
    /// The choices with absolute paths: what is started works in other directories.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub(super) fn resolved(mut self) -> Result<Self> {
        for path in [&mut self.program, &mut self.qemu, &mut self.kernel] {
            let Some(path) = path else { continue };
            *path = std::path::absolute(&path)
                .map_err(|error| io(format!("Could not resolve `{}`", path.display()), error))?;
        }
        self.qemu = self.qemu.or_else(|| env_vars::program(env_vars::QEMU));
        Ok(self)
    }

    /// Variables by which a child of this program makes the same choices.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let backend = self.backend.as_deref().map(Path::new);
        [
            (env_vars::PROGRAM, self.program.as_deref()),
            (env_vars::QEMU, self.qemu.as_deref()),
            (env_vars::KERNEL, self.kernel.as_deref()),
            (env_vars::BACKEND, backend),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}
