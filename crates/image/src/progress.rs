//! What long work tells its caller as it goes.
//!
//! Called from any thread, often; implementations must be quick and must not fail.

/// Receives the events of one pull, load or build.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: ProgressEvent<'_>);
}

/// A stage of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Asking which image the reference names.
    Resolving,
    /// Fetching what the store does not have.
    Downloading,
    /// Reading an archive.
    Reading,
    /// Writing an archive.
    Writing,
    /// Building the root file system.
    Unpacking,
    /// Copying a sandbox's memory and disk.
    Capturing,
    /// Bringing what was copied to the host's disk.
    Syncing,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent<'a> {
    /// A stage begins; `total_bytes` counts what [`Self::PhaseAdvanced`] will, where it is known.
    Phase {
        /// The stage.
        phase: Phase,
        /// Bytes of work in it.
        total_bytes: Option<u64>,
    },
    /// The current stage has dealt with `done_bytes` bytes since it began.
    PhaseAdvanced {
        /// Bytes dealt with so far.
        done_bytes: u64,
    },
    /// A layer begins; `id` is its short digest.
    LayerStarted {
        /// The layer's short digest.
        id: &'a str,
        /// Its size in bytes.
        total_bytes: u64,
    },
    /// `bytes` more bytes of a layer have arrived.
    LayerAdvanced {
        /// The layer's short digest.
        id: &'a str,
        /// Bytes since the last event of this layer.
        bytes: u64,
    },
    /// A broken transfer of a layer is taken up again.
    LayerRetried {
        /// The layer's short digest.
        id: &'a str,
        /// How many bytes are kept.
        kept_bytes: u64,
    },
    /// A layer is there and verified; `already_present` when nothing had to be fetched.
    LayerDone {
        /// The layer's short digest.
        id: &'a str,
        /// Whether the store had it.
        already_present: bool,
    },
    /// Something was left out or passed over, which the user should know of.
    Warning {
        /// A sentence for people.
        text: &'a str,
    },
}

/// Ignores every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn event(&self, _event: ProgressEvent<'_>) {}
}
