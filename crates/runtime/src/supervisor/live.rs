//! What the supervisor is given: a sandbox that is to start, and the machine that was made for it.
//!
//! Where the machine comes from is not known here, nor what later starts want: the caller brings
//! the one and does the other.

use std::{fmt, sync::Arc, time::SystemTime};

use cofferdam_backend::{BoxFuture, Machine};
use cofferdam_proto::{Stage, TerminalSize};
use cofferdam_types::NamedSecret;
use tokio::task::JoinHandle;

use crate::{
    base::error::Result,
    link::AgentLink,
    network::{Endpoints, Network},
    store::{
        Entry, Store,
        layout::{Layout, SandboxPaths},
    },
};

/// A sandbox that is being started.
#[derive(Clone, Copy)]
pub(crate) struct Starting<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) store: &'a Store,
    pub(crate) entry: &'a Entry,
    pub(crate) paths: &'a SandboxPaths,
    /// Size of the terminal of the client that starts it.
    pub(crate) terminal: Option<TerminalSize>,
    /// Whether that client tried a standby before, in vain.
    pub(crate) standby_was_silent: bool,
    /// Values of its secrets.
    pub(crate) secrets: &'a [NamedSecret],
    /// What its network has of the host.
    pub(crate) endpoints: &'a Endpoints,
}

impl Starting<'_> {
    /// Writes down the machine that the sandbox has from now on.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn record_machine(&self, machine: &dyn Machine, backend: &str) -> Result<()> {
        let mut state = self.entry.state.clone();
        state.machine_pid = Some(machine.pid());
        state.backend = Some(backend.to_owned());
        self.store.set_state(self.entry.record.id, &state)
    }
}

/// A machine whose workload runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) agent: AgentLink,
    pub(crate) backend: &'static str,
    pub(crate) timeline: Vec<Stage>,
    pub(crate) started_ns: u64,
    /// What a machine must have in common with this one to go on from a capture of it.
    pub(crate) machine_key: String,
    /// What went wrong with quicker ways to start, one sentence each.
    pub(crate) degraded: Vec<String>,
    /// The last change of the disk's file before its first guest could write to it; `None` where an
    /// earlier guest could. A file without a later change has nothing deleted in it.
    pub(crate) disk_made: Option<SystemTime>,
    /// Serves the guest's network interface; `None` if it has none.
    pub(crate) network: Option<Network>,
    /// Reads the machine's memory ahead; returns what went wrong.
    pub(crate) read_ahead: Option<JoinHandle<Vec<String>>>,
}

/// What came of the record of a start.
#[derive(Default)]
pub(crate) struct Recorded {
    /// Waits until the record is on the disk; blocking.
    pub(crate) wait: Option<Box<dyn FnOnce() + Send>>,
    /// Why there is none, if there should be one.
    pub(crate) failure: Option<String>,
}

/// What is to be done for later starts when a start is over. The supervisor calls each once, and
/// notes what could not be done.
pub(crate) trait AfterStart: fmt::Debug {
    /// Records what the start has touched, while its machine is there.
    fn record(&mut self, machine: Arc<dyn Machine>) -> BoxFuture<'static, Recorded>;

    /// Orders, in the background, what the next start of the image is quicker with. Returns what
    /// could not be ordered.
    fn make_ready(&mut self, store: &Store, entry: &Entry) -> Vec<String>;
}
