//! Why a machine died or never became ready, told from its traces. Pure functions over text.
//!
//! Called by the backends after a failed start and by the supervisor after an unexpected end.
//! Invariant: [`Diagnosis::client`] is one of a fixed set of sentences, so that neither the guest
//! nor the host's paths can put a word into it; what they wrote is in [`Diagnosis::operator`] only,
//! on one line, without control characters and of bounded length.
//!
//! Source of the texts: Linux 6.1 and 6.12 (kernel/panic.c, init/main.c, init/do_mounts.c,
//! init/initramfs.c, mm/oom_kill.c), QEMU 7.2 to 10 (hw/i386/x86.c, accel/kvm, system/, block/).

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

/// What a machine died of, for its user and for who runs the host.
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

/// Where a rule looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    Console,
    Vmm,
}

/// What to tell from, the most telling first: a full disk explains a crash, an exhausted memory
/// explains a panic, and not the other way round.
const RULES: &[(Trace, &str, DiagnosisKind)] = {
    use DiagnosisKind as K;
    use Trace::{Console, Vmm};
    &[
        (Vmm, "KVM internal error", K::KvmInternalError),
        (Vmm, "KVM: entry failed", K::KvmInternalError),
        (Vmm, "kvm run failed", K::KvmInternalError),
        (Vmm, "Could not access KVM kernel module", K::KvmUnavailable),
        (Vmm, "failed to initialize kvm", K::KvmUnavailable),
        (Vmm, "invalid kernel header", K::NotAKernel),
        (Vmm, "without PVH ELF Note", K::NotAKernel),
        (Vmm, "could not load kernel", K::NotAKernel),
        (Vmm, "could not open kernel file", K::NotAKernel),
        (Vmm, "linux kernel too old", K::NotAKernel),
        (Vmm, "cannot set up guest memory", K::HostOutOfMemory),
        (Vmm, "Cannot allocate memory", K::HostOutOfMemory),
        (Vmm, "No space left on device", K::HostDiskFull),
        (Vmm, "Disk quota exceeded", K::HostDiskFull),
        (Vmm, "Failed to get \"write\" lock", K::DiskInUse),
        (Vmm, "Failed to get shared \"write\" lock", K::DiskInUse),
        (
            Console,
            "System is deadlocked on memory",
            K::GuestOutOfMemory,
        ),
        (Console, "compulsory panic_on_oom", K::GuestOutOfMemory),
        (
            Console,
            "Out of memory: Killed process",
            K::GuestOutOfMemory,
        ),
        (Console, "Initramfs unpacking failed", K::NoInit),
        (Console, "No working init found", K::NoInit),
        (Console, "Requested init", K::NoInit),
        (Console, "Failed to execute /init", K::NoInit),
        (Console, "Unable to mount root fs", K::NoRootFilesystem),
        (Console, "Attempted to kill init!", K::AgentDied),
        (Console, "Kernel panic - not syncing", K::KernelPanic),
    ]
};

/// Tells what a machine died of; `None` when its traces do not tell.
#[must_use]
pub fn diagnose(failure: &Failure<'_>) -> Option<Diagnosis> {
    by_text(failure).or_else(|| by_end(failure))
}

fn by_text(failure: &Failure<'_>) -> Option<Diagnosis> {
    RULES.iter().find_map(|&(trace, text, kind)| {
        let tail = match trace {
            Trace::Console => failure.console_tail,
            Trace::Vmm => failure.vmm_tail,
        };
        // The last of several is the one that the machine died of.
        let line = tail.lines().rev().find(|line| line.contains(text))?;
        Some(diagnosis(kind, quote(line)))
    })
}

fn by_end(failure: &Failure<'_>) -> Option<Diagnosis> {
    let silent = failure.console_tail.trim().is_empty();
    let last_words = quote(failure.vmm_tail.lines().last().unwrap_or(""));
    match failure.end {
        MachineEnd::Killed(signal) => {
            let kind = match signal {
                SIGSYS => DiagnosisKind::JailViolation,
                SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV => DiagnosisKind::VmmCrash,
                _ => DiagnosisKind::KilledByHost,
            };
            Some(diagnosis(kind, format!("signal {signal}; {last_words}")))
        }
        MachineEnd::StillRunning if silent => Some(diagnosis(
            DiagnosisKind::Silent,
            format!("no console output; {last_words}"),
        )),
        // A guest that ends the machine without a word of its own has reset itself: a triple fault.
        MachineEnd::Exited(0) if silent => Some(diagnosis(
            DiagnosisKind::Silent,
            format!("no console output, exit code 0; {last_words}"),
        )),
        MachineEnd::StillRunning | MachineEnd::Exited(_) => None,
    }
}

/// Linux signal numbers of x86-64 and arm64: signal(7).
const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
const SIGSYS: i32 = 31;

fn diagnosis(kind: DiagnosisKind, operator: String) -> Diagnosis {
    let (client, hint) = sentences(kind);
    Diagnosis {
        kind,
        client: client.to_owned(),
        operator,
        hint: hint.map(str::to_owned),
    }
}

/// What a user is told, and what to do about it.
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
            Some("Run `coffer doctor` for the reason and the command that mends it"),
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

    fn kind_of(console_tail: &str, vmm_tail: &str, end: MachineEnd) -> Option<DiagnosisKind> {
        let failure = Failure {
            console_tail,
            vmm_tail,
            end,
        };
        diagnose(&failure).map(|diagnosis| diagnosis.kind)
    }

    #[test]
    fn what_kernels_write_before_they_die_is_understood() {
        use DiagnosisKind as K;
        let cases = [
            (
                "[    0.6] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
                K::NoRootFilesystem,
            ),
            (
                "[    0.7] Kernel panic - not syncing: No working init found.  Try passing init= option",
                K::NoInit,
            ),
            (
                "[    0.7] Failed to execute /init (error -8)\n[    0.7] Run /sbin/init as init process\n\
                 [    0.8] Kernel panic - not syncing: VFS: Unable to mount root fs on \"\"",
                K::NoInit,
            ),
            (
                "[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
                K::AgentDied,
            ),
            (
                "[    9.1] Out of memory: Killed process 71 (python3) total-vm:1\n\
                 [    9.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x9",
                K::GuestOutOfMemory,
            ),
            (
                "[    2.0] Kernel panic - not syncing: System is deadlocked on memory",
                K::GuestOutOfMemory,
            ),
            (
                "[    2.0] Kernel panic - not syncing: Fatal exception in interrupt",
                K::KernelPanic,
            ),
        ];
        for (console, kind) in cases {
            assert_eq!(
                kind_of(console, "", MachineEnd::Exited(0)),
                Some(kind),
                "{console}"
            );
            assert_eq!(kind_of(console, "", MachineEnd::StillRunning), Some(kind));
        }
    }

    #[test]
    fn what_qemu_writes_before_it_dies_is_understood() {
        use DiagnosisKind as K;
        let cases = [
            ("qemu: invalid kernel header", K::NotAKernel),
            (
                "qemu-system-x86_64: Error loading uncompressed kernel without PVH ELF Note",
                K::NotAKernel,
            ),
            (
                "qemu: could not open kernel file 'k': No such file or directory",
                K::NotAKernel,
            ),
            (
                "qemu-system-x86_64: cannot set up guest memory 'm': Cannot allocate memory",
                K::HostOutOfMemory,
            ),
            (
                "Could not access KVM kernel module: Permission denied\n\
                 qemu-system-x86_64: failed to initialize kvm: Permission denied",
                K::KvmUnavailable,
            ),
            (
                "KVM internal error. Suberror: 1\nemulation failure\nRAX=0000000000000000",
                K::KvmInternalError,
            ),
            (
                "KVM: entry failed, hardware error 0x80000021",
                K::KvmInternalError,
            ),
            (
                "qemu-system-x86_64: -drive file=/x: Failed to get \"write\" lock",
                K::DiskInUse,
            ),
        ];
        for (vmm, kind) in cases {
            assert_eq!(kind_of("", vmm, MachineEnd::Exited(1)), Some(kind), "{vmm}");
        }
    }

    #[test]
    fn the_way_it_ended_tells_when_the_texts_do_not() {
        use DiagnosisKind as K;
        let cases = [
            ("", MachineEnd::StillRunning, Some(K::Silent)),
            (" \r\n", MachineEnd::Exited(0), Some(K::Silent)),
            ("booting", MachineEnd::Killed(31), Some(K::JailViolation)),
            ("booting", MachineEnd::Killed(9), Some(K::KilledByHost)),
            ("booting", MachineEnd::Killed(11), Some(K::VmmCrash)),
            ("booting", MachineEnd::StillRunning, None),
            ("booting", MachineEnd::Exited(0), None),
            ("", MachineEnd::Exited(1), None),
        ];
        for (console, end, kind) in cases {
            assert_eq!(kind_of(console, "", end), kind, "{console:?} {end:?}");
        }
    }

    #[test]
    fn a_rule_for_the_console_does_not_believe_the_vmm_and_the_other_way_round() {
        let told_by_guest = kind_of("KVM internal error", "", MachineEnd::StillRunning);
        assert_eq!(told_by_guest, None);
        let told_by_vmm = kind_of("x", "Kernel panic - not syncing", MachineEnd::StillRunning);
        assert_eq!(told_by_vmm, None);
    }

    #[test]
    fn what_a_hostile_guest_writes_reaches_the_operator_only_cut_and_cleaned() {
        let console = format!(
            "Kernel panic - not syncing: \u{1b}[2J/home/user {}",
            "x".repeat(9000)
        );
        let failure = Failure {
            console_tail: &console,
            vmm_tail: "",
            end: MachineEnd::StillRunning,
        };
        let diagnosis = diagnose(&failure).unwrap();
        assert_eq!(diagnosis.operator.chars().count(), MAX_QUOTE_CHARS);
        assert!(!diagnosis.operator.contains('\u{1b}'));
        assert!(!diagnosis.client.contains("home"));
    }

    #[test]
    fn the_last_panic_is_the_one_quoted() {
        let failure = Failure {
            console_tail: "Kernel panic - not syncing: one\nKernel panic - not syncing: two\n",
            vmm_tail: "",
            end: MachineEnd::Exited(0),
        };
        assert!(diagnose(&failure).unwrap().operator.ends_with("two"));
    }

    #[test]
    fn no_sentence_for_clients_names_a_path_or_a_component() {
        for &(_, _, kind) in RULES {
            let (client, hint) = sentences(kind);
            for word in ["/", "qemu", "QEMU", "KVM", "vmm", ".", "pid"] {
                assert!(!client.contains(word), "{client}");
            }
            assert!(hint.is_some_and(|hint| !hint.ends_with('.')));
        }
    }
}
