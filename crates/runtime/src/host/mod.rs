//! The host: which of the backends works on it, and what room it has.
//!
//! The KVM probe runs in a process of its own, so that a KVM that hangs can be killed; what holds
//! until the next boot is remembered under the boot's id.

pub(crate) mod admission;
pub(crate) mod compatibility;
pub(crate) mod counter;
pub(crate) mod diagnosis;
pub(crate) mod guest;
pub(crate) mod needs;
pub(crate) mod room;
pub(crate) mod silence;

use std::{cell::OnceCell, path::Path, sync::Arc, time::Duration};

use cofferdam_backend::{Backend, BackendKind, ProbeFix};
use cofferdam_base::{boot_id, env_vars, fs};
use cofferdam_kvm_probe::{Fix, KvmFinding};
use cofferdam_qemu::KvmUsable;

use crate::{
    backends::BackendOptions,
    base::error::{Error, ErrorKind, Result},
    store::layout::Layout,
};

/// How long the probe's process may take before it is killed. The probe gives up earlier, but for a
/// host too busy for two runs of its guest; being killed says nothing that is remembered.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A finding is a few KiB.
const MAX_FINDING_BYTES: u64 = 64 << 10;

/// The name that means QEMU with whatever the host has.
const ANY_QEMU: &str = "qemu";

/// The backend that a sandbox gets: the one asked for by name or environment, else the first that
/// works.
///
/// # Errors
/// [`ErrorKind::BackendUnavailable`] with the reason when it does not work here, at once.
pub(crate) fn backend(layout: &Layout, asked: Option<&str>) -> Result<Arc<dyn Backend>> {
    let from_environment = env_vars::var(env_vars::BACKEND);
    let asked = asked
        .or_else(|| layout.choices().backend.as_deref())
        .or(from_environment.as_deref())
        .filter(|name| *name != "auto");
    let kvm = OnceCell::new();
    let known = all(layout, || kvm.get_or_init(|| kvm_finding(layout)).clone());
    let names: Vec<&str> = known.iter().map(|backend| backend.name()).collect();
    let names = names.join("`, `");
    if let Some(name) = asked
        && name != ANY_QEMU
        && !known.iter().any(|backend| backend.name() == name)
    {
        return Err(Error::new(
            ErrorKind::InvalidSpec,
            format!("There is no backend `{name}`"),
        )
        .hint(format!("Choose one of `auto`, `{ANY_QEMU}`, `{names}`")));
    }
    let mut reasons = Vec::new();
    let mut hint = None;
    for backend in known {
        if asked.is_some_and(|name| name != backend.name() && name != ANY_QEMU) {
            continue;
        }
        match unusable(backend.as_ref(), kvm.get()) {
            None => return Ok(backend),
            Some((reason, fix)) => {
                reasons.push(reason);
                hint = fix.or(hint);
            }
        }
    }
    let error = Error::new(ErrorKind::BackendUnavailable, reasons.join("; "));
    Err(error.hint(hint.unwrap_or_else(|| "See what `coffer doctor` says".to_owned())))
}

/// The backend of this name, whether it works here or not.
pub(crate) fn named(layout: &Layout, name: &str) -> Option<Arc<dyn Backend>> {
    all(layout, || kvm_finding(layout))
        .into_iter()
        .find(|backend| backend.name() == name)
}

/// Why a backend does not work here and what mends it; cheap for the one that mostly does.
fn unusable(backend: &dyn Backend, kvm: Option<&KvmFinding>) -> Option<(String, Option<String>)> {
    if backend.kind() == BackendKind::QemuKvm
        && let Some(kvm) = kvm.filter(|kvm| !kvm.is_usable())
    {
        let fix = kvm.fixes.first().map(|fix| match &fix.command {
            Some(command) => format!("{}: {command}", fix.what),
            None => fix.what.clone(),
        });
        return Some((
            format!("`{}` cannot be used: {}", backend.name(), kvm.detail),
            fix,
        ));
    }
    // The key needs the program's version: it is there when the program is, and is remembered.
    match backend.compatibility_key() {
        Ok(_) => None,
        Err(error) => Some((
            format!("`{}` cannot be used: {}", backend.name(), error.chain()),
            Some(format!("Install it with `{}`", backend.install_hint())),
        )),
    }
}

/// Every backend, the best first.
pub(crate) fn all(layout: &Layout, kvm: impl FnOnce() -> KvmFinding) -> Vec<Arc<dyn Backend>> {
    layout.backends().all(|| {
        let kvm = kvm();
        BackendOptions {
            kvm: if kvm.is_usable() {
                KvmUsable::Yes
            } else {
                KvmUsable::No {
                    fixes: kvm.fixes.iter().map(fix).collect(),
                    reason: kvm.detail,
                }
            },
            program: layout.qemu().map(Path::to_owned),
            kept_probe: layout.cache().join("qemu.json"),
        }
    })
}

/// What would mend KVM, in a backend's terms.
fn fix(fix: &Fix) -> ProbeFix {
    ProbeFix {
        what: fix.what.clone(),
        cost: format!("Without: {}", fix.gain),
        command: fix.command.clone(),
    }
}

/// What KVM can do, from memory if this boot has been probed.
pub(crate) fn kvm_finding(layout: &Layout) -> KvmFinding {
    let remembered = boot_id().map(|boot| {
        let uid = rustix::process::geteuid().as_raw();
        layout.cache().join(format!("kvm-{boot}-{uid}.json"))
    });
    if let Some(finding) = remembered
        .as_ref()
        .and_then(|path| fs::read_json(path, MAX_FINDING_BYTES).ok())
    {
        return finding;
    }
    let finding = match crate::store::program::path(layout) {
        Ok(program) => {
            let mut command = std::process::Command::new(program);
            command.arg(crate::store::program::PROBE_KVM);
            cofferdam_kvm_probe::probe_in_child(&mut command, PROBE_TIMEOUT)
        }
        // A library user without the program: the probe bounds its own time.
        Err(_) => cofferdam_kvm_probe::probe_in_process(),
    };
    if finding.verdict.holds_until_reboot()
        && let Some(path) = remembered
    {
        // Only a cache: the next call probes again.
        let _ = fs::publish_json(&path, &finding, false);
    }
    finding
}

/// `main` of the probe's process: the finding as JSON on standard output.
pub(crate) fn probe_main() -> u8 {
    let finding = cofferdam_kvm_probe::probe_in_process();
    match serde_json::to_writer(std::io::stdout().lock(), &finding) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
