//! The host check: what KVM can do before the first machine starts.
//!
//! Called by `doctor` and by the choice of a backend. Invariant: a check never panics and never
//! hangs, whatever the host is like.

use std::time::{Duration, Instant};

use crate::{
    finding::{Fix, KvmFinding, KvmVerdict},
    fixes,
    host::{HostFacts, HostView},
};

/// The Linux kernel's KVM, as seen through a [`HostView`].
#[derive(Clone, Debug, Default)]
pub struct KvmProbe {
    view: HostView,
}

impl KvmProbe {
    /// A probe of the host below `view`.
    #[must_use]
    pub fn new(view: HostView) -> Self {
        Self { view }
    }

    /// What KVM can really do now.
    ///
    /// # Blocking
    /// For some tens of milliseconds; at most about three seconds on a broken host.
    #[must_use]
    pub fn startup_check(&self) -> KvmFinding {
        let started = Instant::now();
        let mut finding = check(&self.view);
        finding.elapsed_us = micros(started.elapsed());
        finding
    }
}

/// Checks this host's KVM on a thread of this process.
///
/// If the kernel gets stuck in `KVM_RUN`, that thread stays behind; who cannot have that calls this
/// in a process of its own and reads the finding with [`crate::probe_in_child`].
#[must_use]
pub fn probe_in_process() -> KvmFinding {
    KvmProbe::default().startup_check()
}

#[cfg(target_arch = "x86_64")]
fn check(view: &HostView) -> KvmFinding {
    let mut outcome = crate::probe::try_kvm(&view.kvm_path());
    let facts = view.facts();
    let closed = matches!(
        outcome.verdict,
        KvmVerdict::Absent | KvmVerdict::NoPermission
    );
    // A device that was opened would bring none of the speed that the other fixes promise.
    let in_vain = closed && fixes::runs_no_stock_kernel(&facts);
    if in_vain {
        outcome.reason += "; opened, it could not run a stock 64-bit kernel either";
    }
    let mut fixes = match outcome.verdict {
        _ if in_vain => fixes::for_unfit(&facts),
        KvmVerdict::Absent => fixes::for_absent(&facts),
        KvmVerdict::NoPermission => fixes::for_no_permission(&facts, view.has_group("kvm")),
        KvmVerdict::CannotRunKernel => fixes::for_unfit(&facts),
        KvmVerdict::Usable | KvmVerdict::Broken | KvmVerdict::Unsupported => Vec::new(),
    };
    fixes.extend(outcome.advice.map(|what| Fix {
        what: what.to_owned(),
        command: None,
        gain: "KVM can be tried again".to_owned(),
    }));
    KvmFinding {
        verdict: outcome.verdict,
        detail: sentence(outcome.verdict, &facts, &outcome.reason),
        flavour: facts.flavour,
        fixes,
        elapsed_us: 0,
        evidence: outcome.evidence,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn check(view: &HostView) -> KvmFinding {
    let verdict = KvmVerdict::Unsupported;
    let reason = format!("there is no probe guest for `{}`", std::env::consts::ARCH);
    let facts = view.facts();
    KvmFinding {
        flavour: facts.flavour.clone(),
        ..KvmFinding::without_guest(verdict, sentence(verdict, &facts, &reason))
    }
}

fn sentence(verdict: KvmVerdict, facts: &HostFacts, reason: &str) -> String {
    match &facts.flavour {
        Some(flavour) => format!("KVM (`{flavour}`) is {verdict}: {reason}"),
        None => format!("KVM is {verdict}: {reason}"),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
