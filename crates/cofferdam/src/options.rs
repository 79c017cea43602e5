//! How a store is opened.

use std::path::PathBuf;

use cofferdam_runtime::Choices;

/// How a store is opened. What is not set comes from the environment, so that with all of it set no
/// environment variable matters.
///
/// ```
/// let options = cofferdam::CofferOptions::new()
///     .home("/srv/sandboxes")
///     .program("/usr/local/bin/coffer")
///     .qemu("/opt/qemu/bin/qemu-system-x86_64")
///     .standby_auto(false);
/// ```
#[derive(Clone, Debug)]
pub struct CofferOptions {
    pub(crate) choices: Choices,
    pub(crate) standby_auto: bool,
}

impl Default for CofferOptions {
    fn default() -> Self {
        Self {
            choices: Choices::default(),
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
        self.choices.home = Some(directory.into());
        self
    }

    /// The `coffer` program, with the guest agent in it, that supervisors are started from; in place
    /// of `COFFER_PROGRAM` and one beside this program or in `PATH`. A relative path counts from the
    /// current directory, here and below.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.choices.program = Some(program.into());
        self
    }

    /// The guest kernel of sandboxes whose spec names none, in place of `COFFER_KERNEL` and the one
    /// beside the program.
    #[must_use]
    pub fn kernel(mut self, kernel: impl Into<PathBuf>) -> Self {
        self.choices.kernel = Some(kernel.into());
        self
    }

    /// The QEMU program of everything that is started through this store, in place of
    /// `COFFER_QEMU` and the one in `PATH`.
    #[must_use]
    pub fn qemu(mut self, program: impl Into<PathBuf>) -> Self {
        self.choices.qemu = Some(program.into());
        self
    }

    /// The backend of sandboxes whose spec names none, in place of `COFFER_BACKEND`.
    #[must_use]
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        self.choices.backend = Some(name.into());
        self
    }

    /// The directory of the one `config.json` to read registry credentials from, in place of all
    /// places in which Docker, podman and skopeo keep them.
    #[must_use]
    pub fn docker_config(mut self, directory: impl Into<PathBuf>) -> Self {
        self.choices.pull.docker_config = Some(directory.into());
        self
    }

    /// Mirrors of registries, `registry=mirror` pairs separated by commas, in place of
    /// `COFFER_MIRRORS`.
    #[must_use]
    pub fn mirrors(mut self, pairs: impl Into<String>) -> Self {
        self.choices.pull.mirrors = Some(pairs.into());
        self
    }

    /// A file of more certificate authorities (PEM) that are trusted for registries, in place of
    /// `COFFER_CA_FILE`.
    #[must_use]
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.choices.pull.ca_file = Some(file.into());
        self
    }

    /// Whether a standby is kept of the image that ran last, for the time and within the memory
    /// that the store's settings say. On by default; off leaves it to the setting `standby.auto`.
    #[must_use]
    pub const fn standby_auto(mut self, on: bool) -> Self {
        self.standby_auto = on;
        self
    }
}
