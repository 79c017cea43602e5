//! Why a machine failed: QEMU's own sentences, then what any machine's traces show.
//!
//! Source of the texts: QEMU 7.2 to 10.0 (hw/i386/x86.c, accel/kvm, system/, block/).

use cofferdam_backend::{
    Diagnosis, DiagnosisKind, Failure,
    diagnosis::{Rule, find, of_end, of_guest},
};

/// What QEMU writes to its standard error, the most telling first: a full disk explains a crash, and
/// not the other way round.
const RULES: &[Rule] = {
    use DiagnosisKind as K;
    &[
        ("KVM internal error", K::KvmInternalError),
        ("KVM: entry failed", K::KvmInternalError),
        ("kvm run failed", K::KvmInternalError),
        ("Could not access KVM kernel module", K::KvmUnavailable),
        ("failed to initialize kvm", K::KvmUnavailable),
        ("invalid kernel header", K::NotAKernel),
        ("without PVH ELF Note", K::NotAKernel),
        ("could not load kernel", K::NotAKernel),
        ("could not open kernel file", K::NotAKernel),
        ("linux kernel too old", K::NotAKernel),
        ("cannot set up guest memory", K::HostOutOfMemory),
        ("Cannot allocate memory", K::HostOutOfMemory),
        ("No space left on device", K::HostDiskFull),
        ("Disk quota exceeded", K::HostDiskFull),
        ("Failed to get \"write\" lock", K::DiskInUse),
        ("Failed to get shared \"write\" lock", K::DiskInUse),
    ]
};

/// Why a machine failed; `None` when its traces do not show it.
pub(crate) fn diagnose(failure: &Failure<'_>) -> Option<Diagnosis> {
    find(RULES, failure.vmm_tail)
        .or_else(|| of_guest(failure))
        .or_else(|| of_end(failure))
}

#[cfg(test)]
mod tests {
    use cofferdam_backend::MachineEnd;

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
    fn a_text_counts_only_in_the_trace_that_it_belongs_to() {
        let from_guest = kind_of("KVM internal error", "", MachineEnd::StillRunning);
        assert_eq!(from_guest, None);
        let from_vmm = kind_of("x", "Kernel panic - not syncing", MachineEnd::StillRunning);
        assert_eq!(from_vmm, None);
    }

    #[test]
    fn a_full_disk_explains_a_panic() {
        let panic = "Kernel panic - not syncing: Attempted to kill init!";
        let vmm = "qemu-system-x86_64: write: No space left on device";
        let kind = kind_of(panic, vmm, MachineEnd::Exited(0));
        assert_eq!(kind, Some(DiagnosisKind::HostDiskFull));
    }
}
