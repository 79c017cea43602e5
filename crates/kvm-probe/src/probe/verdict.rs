//! From what the guest did to what that says about the host: pure functions.

use crate::finding::{Evidence, KvmVerdict};

use super::{
    guest::{self, stage},
    record::{End, Record},
    run::{STRETCH_BUDGET, WALL_LIMIT},
    setup::SetupFailure,
};

/// The verdict on a guest's run and the second half of a sentence that gives the reason.
pub(super) fn judge(record: &Record) -> (KvmVerdict, String) {
    let reached = reached(record.stage);
    let reason = match &record.end {
        End::Done if record.wrong.is_empty() && record.stage == stage::INTERRUPT => {
            return (
                KvmVerdict::Usable,
                format!(
                    "a 64-bit guest ran {} kernel-mode instructions in {:.1} ms",
                    thousands(instructions(record)),
                    record.ring0_time.as_secs_f64() * 1000.0,
                ),
            );
        }
        End::Done => format!(
            "a guest came to its end with wrong results of {}",
            wrong(record)
        ),
        // Neither says anything about what KVM could do with more time or memory.
        End::Starved => {
            let reason = format!(
                "the host was too busy to give a guest {} ms of processor time within {} s",
                STRETCH_BUDGET.as_millis(),
                WALL_LIMIT.as_secs(),
            );
            return (KvmVerdict::Broken, reason);
        }
        End::Failed(errno) => {
            let reason = format!("`KVM_RUN` failed {reached}: {}", errno_text(*errno));
            return (KvmVerdict::Broken, reason);
        }
        End::Budget if record.stage == stage::MMIO => format!(
            "it ran {} of {} kernel-mode instructions of a guest in {} ms",
            thousands(instructions(record)),
            thousands(instructions_wanted()),
            record.ring0_time.as_millis(),
        ),
        End::Budget => format!(
            "a guest made no progress for {} ms {reached}",
            STRETCH_BUDGET.as_millis()
        ),
        End::Fault => format!("a guest met a fault {reached} that no processor raises"),
        End::InternalError(suberror) => {
            format!("it gave up on a guest {reached} (internal error {suberror})")
        }
        End::Exit(exit) => format!("a guest stopped {reached} ({exit})"),
    };
    (KvmVerdict::CannotRunKernel, reason)
}

/// What the record proves, for people and programs that want to see for themselves.
pub(super) fn evidence(record: &Record) -> Evidence {
    Evidence {
        entered_long_mode: record.passed(stage::LONG_MODE),
        page_fault: record.passed(stage::PAGING),
        cpuid: record.passed(stage::CPUID),
        pio: record.passed(stage::PORT),
        mmio: record.passed(stage::MMIO),
        ring3: record.passed(stage::RING3),
        interrupt: record.passed(stage::INTERRUPT),
        instructions: instructions(record),
        instructions_wanted: instructions_wanted(),
        loop_us: u64::try_from(record.ring0_time.as_micros()).unwrap_or(u64::MAX),
        exits: record.exits,
        end: match &record.end {
            End::Done => "done".to_owned(),
            End::Fault => "unexpected fault".to_owned(),
            End::Budget => "out of processor time".to_owned(),
            End::Starved => "out of wall time".to_owned(),
            End::InternalError(suberror) => format!("internal error {suberror}"),
            End::Exit(exit) => format!("exit {exit}"),
            End::Failed(errno) => errno_text(*errno),
        },
        missing_capabilities: Vec::new(),
    }
}

/// A sentence's second half for a VM that could not be set up, and a fix if one is known.
pub(super) fn explain_setup(failure: SetupFailure) -> (String, Option<&'static str>) {
    let reason = format!("`{}` failed: {}", failure.step, errno_text(failure.errno));
    let fix = match failure.errno {
        libc::EBUSY => Some("Stop the other hypervisor that holds the processor's extensions"),
        libc::ENOMEM => Some("Free some memory"),
        libc::EMFILE | libc::ENFILE => Some("Raise the limit of open files"),
        _ => None,
    };
    (reason, fix)
}

pub(super) fn errno_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

fn instructions(record: &Record) -> u64 {
    record.loops * guest::RING0_LOOP_INSTRUCTIONS
}

fn instructions_wanted() -> u64 {
    guest::RING0_LOOPS * guest::RING0_LOOP_INSTRUCTIONS
}

/// `917504` as `917 504`, so that people can compare two of them.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Where a guest was that had finished `finished` stages.
fn reached(finished: u64) -> &'static str {
    match finished {
        0 => "on its way to long mode",
        stage::LONG_MODE => "at its first page fault",
        stage::PAGING => "at CPUID",
        stage::CPUID => "at a port",
        stage::PORT => "at a device register",
        stage::MMIO => "in kernel mode",
        stage::RING0 => "in user mode",
        stage::RING3 => "waiting for an interrupt",
        _ => "at its end",
    }
}

fn wrong(record: &Record) -> String {
    let names: Vec<&str> = record
        .wrong
        .iter()
        .map(|&wrong| match wrong {
            stage::PAGING => "a page fault",
            stage::CPUID => "CPUID",
            stage::PORT => "a port",
            stage::MMIO => "a device register",
            stage::RING0 => "kernel mode",
            stage::RING3 => "user mode",
            _ => "an interrupt",
        })
        .collect();
    if names.is_empty() {
        "unfinished stages".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(end: End, stage: u64, loops: u64) -> Record {
        Record {
            end,
            stage,
            wrong: Vec::new(),
            loops,
            ring0_time: Duration::from_millis(30),
            exits: 5,
        }
    }

    #[test]
    fn a_guest_that_did_everything_right_makes_kvm_usable() {
        let (verdict, reason) = judge(&record(End::Done, stage::INTERRUPT, guest::RING0_LOOPS));
        assert_eq!(verdict, KvmVerdict::Usable);
        assert_eq!(
            reason,
            "a 64-bit guest ran 917 504 kernel-mode instructions in 30.0 ms"
        );
    }

    #[test]
    fn a_guest_that_crawls_in_kernel_mode_makes_kvm_unfit_with_both_numbers_in_the_reason() {
        let (verdict, reason) = judge(&record(End::Budget, stage::MMIO, 5000));
        assert_eq!(verdict, KvmVerdict::CannotRunKernel);
        assert_eq!(
            reason,
            "it ran 35 000 of 917 504 kernel-mode instructions of a guest in 30 ms"
        );
    }

    #[test]
    fn a_guest_that_says_done_with_a_wrong_result_is_not_believed() {
        let mut lying = record(End::Done, stage::INTERRUPT, guest::RING0_LOOPS);
        lying.wrong = vec![stage::RING3];
        let (verdict, reason) = judge(&lying);
        assert_eq!(verdict, KvmVerdict::CannotRunKernel);
        assert!(reason.ends_with("wrong results of user mode"), "{reason}");
        assert!(!evidence(&lying).ring3);
        assert!(evidence(&lying).interrupt);
    }

    #[test]
    fn a_guest_that_says_done_too_early_is_not_believed() {
        let (verdict, _) = judge(&record(End::Done, stage::RING0, guest::RING0_LOOPS));
        assert_eq!(verdict, KvmVerdict::CannotRunKernel);
    }

    #[test]
    fn every_end_has_a_verdict_and_names_the_place() {
        let cases = [
            (
                End::Fault,
                stage::RING0,
                KvmVerdict::CannotRunKernel,
                "in user mode",
            ),
            (
                End::Budget,
                0,
                KvmVerdict::CannotRunKernel,
                "on its way to long mode",
            ),
            (
                End::InternalError(1),
                stage::PAGING,
                KvmVerdict::CannotRunKernel,
                "at CPUID",
            ),
            (
                End::Exit("Shutdown".to_owned()),
                stage::LONG_MODE,
                KvmVerdict::CannotRunKernel,
                "first page fault",
            ),
            (
                End::Failed(libc::EFAULT),
                stage::CPUID,
                KvmVerdict::Broken,
                "at a port",
            ),
            (End::Starved, stage::MMIO, KvmVerdict::Broken, "too busy"),
        ];
        for (end, stage, expected, place) in cases {
            let (verdict, reason) = judge(&record(end, stage, 0));
            assert_eq!(verdict, expected, "{reason}");
            assert!(reason.contains(place), "{reason}");
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1000), "1 000");
        assert_eq!(thousands(123_456_789), "123 456 789");
    }
}
