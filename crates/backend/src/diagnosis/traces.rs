//! What the traces of a machine show, whatever backend runs it.
//!
//! Source of the texts: Linux 6.1 and 6.12 (kernel/panic.c, init/main.c, init/do_mounts.c,
//! init/initramfs.c, mm/oom_kill.c); signal numbers of x86-64 and arm64 from signal(7).

use super::{Diagnosis, DiagnosisKind, Failure, MachineEnd};

/// A text that shows a kind of failure.
pub type Rule = (&'static str, DiagnosisKind);

/// What a Linux guest writes to its console, the most telling first: an exhausted memory explains a
/// panic, and not the other way round.
const GUEST_RULES: &[Rule] = {
    use DiagnosisKind as K;
    &[
        ("System is deadlocked on memory", K::GuestOutOfMemory),
        ("compulsory panic_on_oom", K::GuestOutOfMemory),
        ("Out of memory: Killed process", K::GuestOutOfMemory),
        ("Initramfs unpacking failed", K::NoInit),
        ("No working init found", K::NoInit),
        ("Requested init", K::NoInit),
        ("Failed to execute /init", K::NoInit),
        ("Unable to mount root fs", K::NoRootFilesystem),
        ("Attempted to kill init!", K::AgentDied),
        ("Kernel panic - not syncing", K::KernelPanic),
    ]
};

/// The first of `rules` whose text is in `trace`; `None` if there is none. Of several lines with
/// that text the last one is quoted, since the machine failed after it.
#[must_use]
pub fn find(rules: &[Rule], trace: &str) -> Option<Diagnosis> {
    rules.iter().find_map(|&(text, kind)| {
        let line = trace.lines().rev().find(|line| line.contains(text))?;
        Some(Diagnosis::new(kind, line))
    })
}

/// What the guest's console shows.
#[must_use]
pub fn of_guest(failure: &Failure<'_>) -> Option<Diagnosis> {
    find(GUEST_RULES, failure.console_tail)
}

/// What the end of the machine's process shows; of less weight than any text.
#[must_use]
pub fn of_end(failure: &Failure<'_>) -> Option<Diagnosis> {
    let silent = failure.console_tail.trim().is_empty();
    let last_line = failure.vmm_tail.lines().last().unwrap_or("").trim();
    match failure.end {
        MachineEnd::Killed(signal) => {
            let kind = match signal {
                SIGSYS => DiagnosisKind::JailViolation,
                SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV => DiagnosisKind::VmmCrash,
                _ => DiagnosisKind::KilledByHost,
            };
            let line = format!("signal {signal}; {last_line}");
            Some(Diagnosis::new(kind, &line))
        }
        MachineEnd::StillRunning if silent => {
            let line = format!("no console output; {last_line}");
            Some(Diagnosis::new(DiagnosisKind::Silent, &line))
        }
        // A guest that ends the machine without a word of its own has reset itself: a triple fault.
        MachineEnd::Exited(0) if silent => {
            let line = format!("no console output, exit code 0; {last_line}");
            Some(Diagnosis::new(DiagnosisKind::Silent, &line))
        }
        MachineEnd::StillRunning | MachineEnd::Exited(_) => None,
    }
}

const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
const SIGSYS: i32 = 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(console_tail: &str, end: MachineEnd) -> Failure<'_> {
        Failure {
            console_tail,
            vmm_tail: "",
            end,
        }
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
            let found = of_guest(&failure(console, MachineEnd::Exited(0))).unwrap();
            assert_eq!(found.kind, kind, "{console}");
        }
    }

    #[test]
    fn the_end_of_the_process_shows_the_kind() {
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
            let found = of_end(&failure(console, end)).map(|diagnosis| diagnosis.kind);
            assert_eq!(found, kind, "{console:?} {end:?}");
        }
    }

    #[test]
    fn the_last_panic_is_the_one_quoted() {
        let console = "Kernel panic - not syncing: one\nKernel panic - not syncing: two\n";
        let found = of_guest(&failure(console, MachineEnd::Exited(0))).unwrap();
        assert!(found.operator.ends_with("two"), "{found:?}");
    }
}
