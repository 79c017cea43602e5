//! Tries KVM by running a guest in it: the one test that a host cannot pass by looking right.
//!
//! [`try_kvm`] is called by [`crate::KvmProbe`]. The story, file by file: [`guest`] is the machine
//! code, [`layout`] its memory's content, [`memory`] that memory, [`setup`] the VM, [`run`] the run
//! with its budget, [`alarm`] what interrupts it, [`record`] what the guest did, [`verdict`] what
//! that means.
//!
//! Threads: the guest runs on a thread made for it, whose signals are all blocked; nothing else of
//! the process changes. If the kernel keeps that thread, it is left behind and the caller goes on.

mod alarm;
mod guest;
mod layout;
mod memory;
mod record;
mod run;
mod setup;
mod verdict;

use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm};

use crate::finding::{Evidence, KvmVerdict};
use record::Record;
use setup::SetupFailure;

/// How many runs a guest gets that runs out of processor time. On a host that is itself a virtual
/// machine, what its hypervisor takes from it counts as the guest's.
const ATTEMPTS: u32 = 2;

/// Wall time after which a thread that is still inside the kernel is given up: more than all runs
/// take when signals end `KVM_RUN`.
const HARD_LIMIT: Duration = run::WALL_LIMIT
    .saturating_mul(ATTEMPTS)
    .saturating_add(Duration::from_secs(1));

/// What the native VMM and QEMU's `microvm` machine cannot do without, by the names of the KVM API.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
];

/// What trying KVM came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: KvmVerdict,
    /// The second half of a sentence: why.
    pub(crate) reason: String,
    pub(crate) evidence: Evidence,
    /// Something that this very failure suggests.
    pub(crate) advice: Option<&'static str>,
}

impl Outcome {
    fn without_guest(verdict: KvmVerdict, reason: impl Into<String>) -> Self {
        Self {
            verdict,
            reason: reason.into(),
            evidence: Evidence::default(),
            advice: None,
        }
    }
}

/// Opens the KVM device at `path` and runs the probe guest.
///
/// # Blocking
/// For some tens of milliseconds; at most [`HARD_LIMIT`].
pub(crate) fn try_kvm(path: &Path) -> Outcome {
    let kvm = match open(path) {
        Ok(kvm) => kvm,
        Err(outcome) => return *outcome,
    };
    let (sender, receiver) = mpsc::channel();
    let worker = thread::Builder::new().name("kvm-probe".to_owned());
    let spawned = worker.spawn(move || {
        let outcome = try_guest(&kvm);
        drop(kvm);
        // The receiver is gone only when the hard limit has passed; then nobody wants to know.
        let _ = sender.send(outcome);
    });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => {
            let reason = format!("no thread could be started for a guest: {error}");
            return Outcome::without_guest(KvmVerdict::Broken, reason);
        }
    };
    match receiver.recv_timeout(HARD_LIMIT) {
        Ok(outcome) => {
            // It has nothing left to do but to end, and nothing to say.
            let _ = thread.join();
            outcome
        }
        Err(RecvTimeoutError::Timeout) => Outcome::without_guest(
            KvmVerdict::Broken,
            format!("the kernel did not give a guest's thread back within {HARD_LIMIT:?}"),
        ),
        Err(RecvTimeoutError::Disconnected) => {
            Outcome::without_guest(KvmVerdict::Broken, "a guest's thread ended early")
        }
    }
}

fn open(path: &Path) -> Result<Kvm, Box<Outcome>> {
    let broken = |reason: String| Box::new(Outcome::without_guest(KvmVerdict::Broken, reason));
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|error| broken(format!("the device's path is no path: {error}")))?;
    let kvm = Kvm::new_with_path(&name).map_err(|error| Box::new(refusal(error.errno())))?;
    if u32::try_from(kvm.get_api_version()) == Ok(KVM_API_VERSION) {
        return Ok(kvm);
    }
    Err(broken(format!(
        "the device does not speak version {KVM_API_VERSION} of the KVM API"
    )))
}

/// What it means that the device could not be opened.
fn refusal(errno: i32) -> Outcome {
    let text = verdict::errno_text(errno);
    match errno {
        libc::ENOENT | libc::ENOTDIR => {
            Outcome::without_guest(KvmVerdict::Absent, "there is no `/dev/kvm`")
        }
        libc::ENODEV | libc::ENXIO => {
            let reason = format!("no driver stands behind `/dev/kvm`: {text}");
            Outcome::without_guest(KvmVerdict::Absent, reason)
        }
        // EPERM is the device control group's answer inside a container.
        libc::EACCES | libc::EPERM => Outcome::without_guest(
            KvmVerdict::NoPermission,
            format!("opening `/dev/kvm` failed: {text}"),
        ),
        libc::EBUSY => Outcome {
            advice: Some("Stop the other program that holds `/dev/kvm`"),
            ..Outcome::without_guest(
                KvmVerdict::Broken,
                format!("opening `/dev/kvm` failed: {text}"),
            )
        },
        _ => {
            let reason = format!("opening `/dev/kvm` failed: {text}");
            Outcome::without_guest(KvmVerdict::Broken, reason)
        }
    }
}

fn try_guest(kvm: &Kvm) -> Outcome {
    let missing_capabilities = NEEDED
        .iter()
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| (*name).to_owned())
        .collect();
    match attempts(|| run::run(kvm)) {
        Ok(record) => {
            let (verdict, reason) = verdict::judge(&record);
            Outcome {
                verdict,
                reason,
                evidence: Evidence {
                    missing_capabilities,
                    ..verdict::evidence(&record)
                },
                advice: None,
            }
        }
        Err(failure) => {
            let (reason, advice) = verdict::explain_setup(failure);
            Outcome {
                advice,
                ..Outcome::without_guest(KvmVerdict::Broken, reason)
            }
        }
    }
}

/// The first run that does not end for want of processor time, or else the last.
fn attempts(mut run: impl FnMut() -> Result<Record, SetupFailure>) -> Result<Record, SetupFailure> {
    for _ in 1..ATTEMPTS {
        let record = run()?;
        if record.end != record::End::Budget {
            return Ok(record);
        }
    }
    run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::End;

    /// How [`attempts`] ends, and after how many runs, when runs end like `ends`.
    fn tried(ends: &[End]) -> (End, usize) {
        let mut count = 0;
        let record = attempts(|| {
            count += 1;
            Ok(Record {
                end: ends[count - 1].clone(),
                stage: 0,
                wrong: Vec::new(),
                loops: 0,
                ring0_time: Duration::ZERO,
                exits: 0,
            })
        });
        (record.unwrap().end, count)
    }

    #[test]
    fn only_a_guest_that_ran_out_of_processor_time_gets_another_try() {
        assert_eq!(tried(&[End::Done]), (End::Done, 1));
        assert_eq!(tried(&[End::Fault]), (End::Fault, 1));
        assert_eq!(tried(&[End::Budget, End::Done]), (End::Done, 2));
        assert_eq!(tried(&[End::Budget, End::Budget]), (End::Budget, 2));
    }

    #[test]
    fn each_way_of_not_opening_the_device_has_its_own_verdict() {
        let verdicts = [
            libc::ENOENT,
            libc::ENXIO,
            libc::EACCES,
            libc::EPERM,
            libc::EBUSY,
            libc::EIO,
        ]
        .map(|errno| refusal(errno).verdict);
        assert_eq!(
            verdicts,
            [
                KvmVerdict::Absent,
                KvmVerdict::Absent,
                KvmVerdict::NoPermission,
                KvmVerdict::NoPermission,
                KvmVerdict::Broken,
                KvmVerdict::Broken,
            ]
        );
        assert!(refusal(libc::EBUSY).advice.is_some());
    }

    #[test]
    fn a_file_in_the_place_of_the_device_is_not_taken_for_kvm() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm");
        std::fs::write(&path, b"").unwrap();
        let outcome = try_kvm(&path);
        assert_eq!(outcome.verdict, KvmVerdict::Broken);
        assert!(outcome.reason.contains("version 12"), "{}", outcome.reason);
    }
}
