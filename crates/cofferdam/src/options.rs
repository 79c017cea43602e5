//! How a store is opened.

use std::path::PathBuf;

/// How a store is opened. What is not set comes from the environment.
///
/// ```
/// let options = cofferdam::CofferOptions::new()
///     .qemu("/opt/qemu/bin/qemu-system-x86_64")
///     .standby_auto(false);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CofferOptions {
    pub(crate) home: Option<PathBuf>,
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) standby_auto: bool,
}

impl Default for CofferOptions {
    fn default() -> Self {
        Self {
            home: None,
            qemu: None,
            standby_auto: true,
        }
    }
}

impl CofferOptions {
    /// Everything by the environment, with automatic standbys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The directory of the store, in place of `COFFER_HOME`.
    #[must_use]
    pub fn home(mut self, directory: impl Into<PathBuf>) -> Self {
        self.home = Some(directory.into());
        self
    }

    /// Whether a standby is kept of the image that ran last, for the time and within the memory
    /// that the store's settings say. On by default; off leaves it to the setting `standby.auto`.
    #[must_use]
    pub const fn standby_auto(mut self, on: bool) -> Self {
        self.standby_auto = on;
        self
    }

    /// The QEMU program of everything that is started through this store, in place of
    /// `COFFER_QEMU` and the one in `PATH`. A relative path counts from the current directory.
    #[must_use]
    pub fn qemu(mut self, program: impl Into<PathBuf>) -> Self {
        self.qemu = Some(program.into());
        self
    }
}
