//! What the host check found: the verdict on KVM, the evidence for it, and what would mend it.
//!
//! Made by [`crate::KvmProbe`]; read by `doctor`, by the choice of a backend, and, as JSON, by the
//! parent of a process that probes ([`crate::probe_in_child`]). Plain data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether this host's KVM can run machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmVerdict {
    /// The probe guest did all that a kernel does, at a processor's speed.
    Usable,
    /// KVM answers, but the probe guest failed or crawled; a stock kernel would hang.
    CannotRunKernel,
    /// `/dev/kvm` is there and this user may not open it.
    NoPermission,
    /// There is no KVM.
    Absent,
    /// KVM is there and failed in a way that says nothing about what it can run.
    Broken,
    /// There is no probe guest for this processor architecture.
    Unsupported,
}

impl KvmVerdict {
    /// Whether the verdict holds until the host boots again. The others cost little to find and
    /// end when somebody mends the host, so they are not worth remembering.
    #[must_use]
    pub const fn holds_until_reboot(self) -> bool {
        matches!(
            self,
            Self::Usable | Self::CannotRunKernel | Self::Unsupported
        )
    }
}

impl fmt::Display for KvmVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable => "usable",
            Self::CannotRunKernel => "present, but cannot run a stock 64-bit kernel",
            Self::NoPermission => "present, but not open to this user",
            Self::Absent => "absent",
            Self::Broken => "present, but not working",
            Self::Unsupported => "not supported on this architecture",
        })
    }
}

/// One thing that somebody could do about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// What to do: an imperative sentence without a full stop.
    pub what: String,
    /// The command that does it, if one command can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What it brings.
    pub gain: String,
}

/// What the probe guest did. All `false` and 0 when it never started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// It switched itself to 64-bit long mode with paging and ran in the upper half.
    pub entered_long_mode: bool,
    /// It took a page fault, mended it and read the page by its second address.
    pub page_fault: bool,
    /// CPUID gave a vendor and the long-mode bit.
    pub cpuid: bool,
    /// A port was written and read.
    pub pio: bool,
    /// A device register was written and read.
    pub mmio: bool,
    /// Ring 3 ran, made a system call, was kept from ring 0's memory and trapped back.
    pub ring3: bool,
    /// An injected interrupt woke it from HLT.
    pub interrupt: bool,
    /// Ring 0 instructions of the timed loop that it ran.
    pub instructions: u64,
    /// Ring 0 instructions that the loop has.
    pub instructions_wanted: u64,
    /// Processor time of the loop, in µs.
    pub loop_us: u64,
    /// Times that the vCPU asked its VMM for something.
    pub exits: u32,
    /// How the guest's run ended.
    pub end: String,
    /// KVM capabilities that a VMM needs and this KVM lacks, by their names in the KVM API.
    pub missing_capabilities: Vec<String>,
}

/// The result of the host check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmFinding {
    /// The verdict.
    pub verdict: KvmVerdict,
    /// The kernel module that provides KVM: `kvm_intel`, `kvm_amd` or `kvm_pvm`; none when it
    /// cannot be told. An explanation, never the reason for the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavour: Option<String>,
    /// One sentence without a full stop: what was found and, unless all is well, why.
    pub detail: String,
    /// What would mend it, the most promising first.
    pub fixes: Vec<Fix>,
    /// Wall time that the check took, in µs.
    pub elapsed_us: u64,
    /// What the probe guest did.
    pub evidence: Evidence,
}

impl KvmFinding {
    /// Whether machines can be started with KVM.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.verdict == KvmVerdict::Usable
    }

    /// A finding made without running a guest.
    pub(crate) fn without_guest(verdict: KvmVerdict, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            flavour: None,
            detail: detail.into(),
            fixes: Vec::new(),
            elapsed_us: 0,
            evidence: Evidence::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_survives_json() {
        let mut finding = KvmFinding::without_guest(KvmVerdict::NoPermission, "Closed");
        finding.flavour = Some("kvm_amd".to_owned());
        finding.fixes.push(Fix {
            what: "Join the group".to_owned(),
            command: Some("sudo usermod -aG kvm $USER".to_owned()),
            gain: "Speed".to_owned(),
        });
        finding.evidence.exits = 7;
        let json = serde_json::to_string(&finding).unwrap();
        assert!(json.contains(r#""verdict":"no_permission""#));
        assert_eq!(serde_json::from_str::<KvmFinding>(&json).unwrap(), finding);
    }

    #[test]
    fn only_verdicts_about_the_running_kernel_hold_until_it_reboots() {
        let holding = [
            KvmVerdict::Usable,
            KvmVerdict::CannotRunKernel,
            KvmVerdict::NoPermission,
            KvmVerdict::Absent,
            KvmVerdict::Broken,
            KvmVerdict::Unsupported,
        ]
        .map(KvmVerdict::holds_until_reboot);
        assert_eq!(holding, [true, true, false, false, false, true]);
    }
}
