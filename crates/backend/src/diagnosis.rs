//! Why a machine died or never became ready: the traces that it left, and the finding.
//!
//! [`crate::Backend::diagnose`] makes a [`Diagnosis`] of a [`Failure`]. A backend reads what its own
//! program writes; [`of_guest`] and [`of_end`] read what all backends have in common.
//! Invariant: [`Diagnosis::client`] is one of a fixed set of sentences, so that neither the guest
//! nor the host's paths can put a word into it; what they wrote is in [`Diagnosis::operator`] only,
//! on one line, without control characters and of bounded length.

mod traces;

pub use traces::{Rule, find, of_end, of_guest};

use serde::{Deserialize, Serialize};

/// How a machine's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// It ended by itself with this exit code.
    Exited(i32),
    /// A signal of this number that Cofferdam did not send ended it.
    Killed(i32),
    /// It runs still, but did not become ready in time.
    StillRunning,
}

/// The traces of a machine that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// The end of what the guest wrote to its console.
    pub console_tail: &'a str,
    /// The end of what the VMM process wrote to its standard error.
    pub vmm_tail: &'a str,
    /// How its process ended.
    pub end: MachineEnd,
}

/// What a machine died of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiagnosisKind {
    /// The file given as a kernel is none.
    NotAKernel,
    /// The kernel has no file system to start from.
    NoRootFilesystem,
    /// The kernel could not start its first process.
    NoInit,
    /// The guest's first process, the agent, ended.
    AgentDied,
    /// The guest ran out of its memory.
    GuestOutOfMemory,
    /// The guest's kernel stopped for another reason.
    KernelPanic,
    /// The host could not give the machine its memory.
    HostOutOfMemory,
    /// The host's disk is full.
    HostDiskFull,
    /// Another process uses the machine's disk.
    DiskInUse,
    /// KVM gave up on the guest.
    KvmInternalError,
    /// KVM could not be opened or set up.
    KvmUnavailable,
    /// The machine's process made a system call that its jail forbids.
    JailViolation,
    /// Somebody or the host's out-of-memory killer ended the machine's process.
    KilledByHost,
    /// The machine's process crashed.
    VmmCrash,
    /// The guest's kernel wrote nothing: it never ran, or the host had no time for it.
    Silent,
}

/// Why a machine failed, for its user and for the operator of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The finding, for control flow.
    pub kind: DiagnosisKind,
    /// One sentence without a full stop, safe to show to anybody.
    pub client: String,
    /// The line of the traces, or the signal, that tells; for logs.
    pub operator: String,
    /// What to do: an imperative sentence without a full stop.
    pub hint: Option<String>,
}

/// Longest piece of a trace that a diagnosis quotes, in characters.
const MAX_QUOTE_CHARS: usize = 240;

impl Diagnosis {
    /// The diagnosis of a kind, with the line that shows it.
    #[must_use]
    pub fn new(kind: DiagnosisKind, line: &str) -> Self {
        let (client, hint) = sentences(kind);
        Self {
            kind,
            client: client.to_owned(),
            operator: quote(line),
            hint: hint.map(str::to_owned),
        }
    }
}

/// The sentence for the user, and the hint.
const fn sentences(kind: DiagnosisKind) -> (&'static str, Option<&'static str>) {
    match kind {
        DiagnosisKind::NotAKernel => (
            "The file given as the guest's kernel is not a kernel that can be started",
            Some("Give an uncompressed x86-64 kernel with a PVH entry, or leave `--kernel` out"),
        ),
        DiagnosisKind::NoRootFilesystem => (
            "The guest's kernel found no file system to start from",
            Some("Use a kernel with virtio-blk and an initramfs built in, or leave `--kernel` out"),
        ),
        DiagnosisKind::NoInit => (
            "The guest's kernel could not start its first process",
            Some("Use a kernel with initramfs and ELF support, or leave `--kernel` out"),
        ),
        DiagnosisKind::AgentDied => (
            "The guest's first process ended and took the machine down",
            Some("Look at the console log for its last words"),
        ),
        DiagnosisKind::GuestOutOfMemory => (
            "The guest ran out of memory",
            Some("Give it more with `--memory`"),
        ),
        DiagnosisKind::KernelPanic => (
            "The guest's kernel panicked",
            Some("Look at the console log for the reason"),
        ),
        DiagnosisKind::HostOutOfMemory => (
            "The host could not give the machine the memory it asks for",
            Some("Ask for less with `--memory`, or stop other sandboxes"),
        ),
        DiagnosisKind::HostDiskFull => (
            "The host has no disk space left for the machine",
            Some("Free some space, for instance with `coffer rmi` and `coffer rm`"),
        ),
        DiagnosisKind::DiskInUse => (
            "Another machine uses this sandbox's disk",
            Some("Stop the other one first"),
        ),
        DiagnosisKind::KvmInternalError => (
            "The host's hardware virtualisation gave up on the guest",
            Some("Run `coffer doctor`, and use emulation on this host: `--backend qemu`"),
        ),
        DiagnosisKind::KvmUnavailable => (
            "The host's hardware virtualisation could not be used",
            Some("Run `coffer doctor` for the reason and the command that fixes it"),
        ),
        DiagnosisKind::JailViolation => (
            "The machine was stopped because it did what its jail forbids",
            Some("Report this, with the operator's log"),
        ),
        DiagnosisKind::KilledByHost => (
            "The host ended the machine from outside",
            Some("Look at the kernel log for the out-of-memory killer, and ask for less memory"),
        ),
        DiagnosisKind::VmmCrash => (
            "The program that runs the machine crashed",
            Some("Report this, with the operator's log"),
        ),
        DiagnosisKind::Silent => (
            "The guest's kernel wrote nothing in time",
            Some(
                "Try again if the host was busy; else run `coffer doctor` to see whether it can \
                 run kernels, and check `--kernel`",
            ),
        ),
    }
}

/// A line of a trace without what could confuse a terminal or a log, cut to size.
fn quote(line: &str) -> String {
    line.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_QUOTE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_line_reaches_the_operator_only_cut_and_cleaned() {
        let line = format!(
            "Kernel panic - not syncing: \u{1b}[2J/home/user {}",
            "x".repeat(9000)
        );
        let diagnosis = Diagnosis::new(DiagnosisKind::KernelPanic, &line);
        assert_eq!(diagnosis.operator.chars().count(), MAX_QUOTE_CHARS);
        assert!(!diagnosis.operator.contains('\u{1b}'));
        assert!(!diagnosis.client.contains("home"));
    }

    #[test]
    fn no_sentence_for_clients_names_a_path_or_a_component() {
        use DiagnosisKind as K;
        for kind in [
            K::NotAKernel,
            K::NoRootFilesystem,
            K::NoInit,
            K::AgentDied,
            K::GuestOutOfMemory,
            K::KernelPanic,
            K::HostOutOfMemory,
            K::HostDiskFull,
            K::DiskInUse,
            K::KvmInternalError,
            K::KvmUnavailable,
            K::JailViolation,
            K::KilledByHost,
            K::VmmCrash,
            K::Silent,
        ] {
            let (client, hint) = sentences(kind);
            for word in ["/", "qemu", "QEMU", "KVM", "vmm", ".", "pid"] {
                assert!(!client.contains(word), "{client}");
            }
            assert!(hint.is_some_and(|hint| !hint.ends_with('.')));
        }
    }
}
