//! Which backends there are: the one place where they are wired.
//!
//! The layout of a store carries it, so every part that starts, looks for or ends machines gets the
//! same backends. A unit test puts a fake in their place.

use std::{path::Path, path::PathBuf, sync::Arc};

use cofferdam_backend::Backend;
use cofferdam_qemu::{KvmUsable, QemuBackend};

use crate::base::task::log_line;

/// Where the backends of a store's machines come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Backends {
    /// Those of this program.
    #[default]
    Installed,
    /// These, and a guest that they can run.
    #[cfg(test)]
    Given(Arc<Given>),
}

/// What a test puts in the place of the program's backends.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) backends: Vec<Arc<dyn Backend>>,
    /// In place of the agent's initial file system.
    pub(crate) initramfs: &'static [u8],
    /// Plays a role of the program in place of a process. It gets the arguments and the socket that
    /// would be standard input.
    pub(crate) play: Option<PlayRole>,
    /// What would have been done in the background, in words. A test does it itself.
    pub(crate) ordered: std::sync::Mutex<Vec<String>>,
}

/// See [`Given::play`].
#[cfg(test)]
pub(crate) type PlayRole =
    fn(crate::store::layout::Layout, &[std::ffi::OsString], std::os::unix::net::UnixStream);

#[cfg(test)]
impl Given {
    /// A backend without a guest of its own.
    pub(crate) fn of(backend: Arc<dyn Backend>) -> Self {
        Self {
            backends: vec![backend],
            initramfs: b"a guest's files",
            play: None,
            ordered: std::sync::Mutex::default(),
        }
    }
}

/// What the program's backends are made from.
#[derive(Clone, Debug)]
pub(crate) struct BackendOptions {
    /// Whether KVM works.
    pub(crate) kvm: KvmUsable,
    /// The QEMU program; `None` for the one in `PATH`.
    pub(crate) program: Option<PathBuf>,
    /// File for what that program says of itself, so that it is asked once.
    pub(crate) kept_probe: PathBuf,
}

impl Backends {
    /// Every backend, the best first. The options are looked at only where they count.
    pub(crate) fn all(&self, options: impl FnOnce() -> BackendOptions) -> Vec<Arc<dyn Backend>> {
        #[cfg(test)]
        if let Self::Given(given) = self {
            return given.backends.clone();
        }
        installed(&options())
    }

    /// Ends the machine that a dead process left in `run_dir`, if there is one, and removes its
    /// backend's files.
    ///
    /// # Blocking
    /// Until the machine has ended, some seconds at most. A machine that does not end is left to the
    /// next process that looks.
    pub(crate) fn reap(&self, run_dir: &Path) {
        // Reaping needs neither KVM nor a program.
        let options = || BackendOptions {
            kvm: KvmUsable::No {
                reason: String::new(),
                fixes: Vec::new(),
            },
            program: None,
            kept_probe: PathBuf::new(),
        };
        for backend in self.all(options) {
            if let Err(error) = backend.reap(run_dir) {
                log_line(&format!("A machine is left: {}", error.chain()));
            }
        }
    }

    /// What a test has put in the place of the program's backends.
    #[cfg(test)]
    pub(crate) fn given(&self) -> Option<&Given> {
        match self {
            Self::Installed => None,
            Self::Given(given) => Some(given),
        }
    }

    /// Notes work for the background instead of doing it, in a test.
    #[cfg(test)]
    pub(crate) fn takes_order(&self, what: impl FnOnce() -> String) -> bool {
        let Some(given) = self.given() else {
            return false;
        };
        given.ordered.lock().unwrap().push(what());
        true
    }
}

fn installed(options: &BackendOptions) -> Vec<Arc<dyn Backend>> {
    let with_options = |backend: QemuBackend| -> Arc<dyn Backend> {
        let backend = backend.with_kept_probe(options.kept_probe.clone());
        Arc::new(match &options.program {
            Some(program) => backend.with_program(program.clone()),
            None => backend,
        })
    };
    vec![
        with_options(QemuBackend::kvm(options.kvm.clone())),
        with_options(QemuBackend::tcg()),
    ]
}
