//! What `coffer doctor` says of this host.

mod checks;

use std::path::PathBuf;

use cofferdam_backend::{BackendCapabilities, HostProbe, ProbeFix};
use cofferdam_kvm_probe::KvmFinding;
use cofferdam_types::PlatformCapabilities;
use serde::Serialize;

use crate::{
    base::error::Error,
    host::{self, guest},
    store::layout::Layout,
};

/// Everything that `doctor` says.
#[derive(Clone, Debug, Serialize)]
pub struct HostReport {
    /// What a host of this family can have.
    pub capabilities: PlatformCapabilities,
    /// What KVM can do here.
    pub kvm: KvmFinding,
    /// The backends, in order of preference.
    pub backends: Vec<BackendReport>,
    /// The guest kernel that would be used.
    pub kernel: Option<PathBuf>,
    /// Further checks.
    pub checks: Vec<Check>,
}

/// What a backend can do here.
#[derive(Clone, Debug, Serialize)]
pub struct BackendReport {
    /// Name for `--backend`.
    pub name: String,
    /// Whether it works here.
    pub usable: bool,
    /// Whether it is what a sandbox gets that asks for none.
    pub chosen: bool,
    /// One sentence.
    pub summary: String,
    /// The program behind it.
    pub program: Option<PathBuf>,
    /// Version of the program behind it.
    pub version: Option<String>,
    /// What it can do, whether it works here or not.
    pub capabilities: BackendCapabilities,
    /// What isolates a guest of it.
    pub isolation: String,
    /// What would mend it.
    pub fixes: Vec<ProbeFix>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What it costs when it is not.
    pub cost: Option<String>,
    /// A command that mends it.
    pub command: Option<String>,
}

/// Looks at the host of an open store.
#[must_use]
pub fn report(layout: &Layout) -> HostReport {
    look(layout, None)
}

/// Looks at a host whose store could not be opened, for this reason.
#[must_use]
pub fn report_without_store(reason: &Error) -> HostReport {
    look(&Layout::of_lost_store(), Some(reason))
}

fn look(layout: &Layout, lost: Option<&Error>) -> HostReport {
    let kvm = host::kvm_finding(layout);
    let mut backends = Vec::new();
    for backend in host::all(layout, || kvm.clone()) {
        let HostProbe {
            usable,
            summary,
            program,
            version,
            isolation,
            fixes,
        } = backend.probe();
        let chosen = usable && !backends.iter().any(|other: &BackendReport| other.chosen);
        let name = backend.name().to_owned();
        backends.push(BackendReport {
            name,
            usable,
            chosen,
            summary,
            program,
            version,
            capabilities: backend.capabilities(),
            isolation,
            fixes,
        });
    }
    let kernel = guest::find_kernel(layout, None);
    let checks = checks::all(layout, &kernel, lost);
    HostReport {
        capabilities: PlatformCapabilities::current(),
        kvm,
        backends,
        kernel: kernel.ok(),
        checks,
    }
}
