//! The rate of the host's time-stamp counter.
//!
//! Called by the QEMU backend: under emulation a guest reads the host's counter, but its own
//! attempts to calibrate it against an emulated timer fail on a busy host, and then it is left
//! with a clock of 4 ms steps. Told the rate, it need not try.
//! Source: Intel SDM vol. 3 §18.17 "Time-Stamp Counter"; Linux `arch/x86/kernel/tsc.c`.

use std::{fs, thread, time::Duration};

/// Both clocks are read within 100 ns at each end: 10 parts in a million of this.
const MEASURE: Duration = Duration::from_millis(20);

/// The rate in kHz, if the counter runs at one rate and never stops.
///
/// # Blocking
/// 20 ms.
#[must_use]
pub fn host_tsc_khz() -> Option<u32> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    if !(has("constant_tsc") && has("nonstop_tsc")) {
        return None;
    }
    measure(MEASURE)
}

#[cfg(target_arch = "x86_64")]
fn measure(span: Duration) -> Option<u32> {
    let (began, first) = both_clocks();
    thread::sleep(span);
    let (ended, last) = both_clocks();
    let nanoseconds = ended.duration_since(began).as_nanos();
    // Ticks per nanosecond times a million are kHz.
    let khz = u128::from(last.checked_sub(first)?) * 1_000_000 / nanoseconds;
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

/// The clock and the counter at one moment: of several pairs the one read fastest, since a busy
/// host may take the processor away in between.
#[cfg(target_arch = "x86_64")]
fn both_clocks() -> (std::time::Instant, u64) {
    let counter = || {
        // SAFETY: RDTSC touches no memory; every x86-64 processor has it, and where the kernel
        // forbids it to programs (PR_SET_TSC) nothing else in this process would run either.
        unsafe { core::arch::x86_64::_rdtsc() }
    };
    let mut best = (u64::MAX, std::time::Instant::now(), 0);
    for _ in 0..32 {
        let before = counter();
        let now = std::time::Instant::now();
        let after = counter();
        let window = after.saturating_sub(before);
        if window < best.0 {
            best = (window, now, before + window / 2);
        }
    }
    (best.1, best.2)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure(_: Duration) -> Option<u32> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, two) = (measure(MEASURE).unwrap(), measure(MEASURE).unwrap());
        // Between 100 MHz and 10 GHz, and equal to one part in a thousand.
        assert!((100_000..10_000_000).contains(&one), "{one} kHz");
        assert!(one.abs_diff(two) < one / 1000, "{one} kHz, then {two} kHz");
    }
}
