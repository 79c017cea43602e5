//! What of the guest was settled when it booted and cannot be put right later: its timers, its
//! clock source, its memory. The host asks before it makes a template of the guest.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    thread,
    time::Duration,
};

use cofferdam_proto::Condition;
use rustix::time::{ClockId, clock_getres};

/// What a kernel says when it has given a timer or a clock up. Source: Linux
/// `arch/x86/kernel/apic/apic.c` (`setup_APIC_timer`), `kernel/time/clocksource.c`,
/// `arch/x86/kernel/tsc.c`.
const COMPLAINTS: [&str; 3] = [
    "APIC timer disabled",
    "Marking clocksource",
    "Unable to calibrate",
];

/// Most complaints in an answer, and most bytes of each.
const MAX_COMPLAINTS: usize = 8;
const MAX_COMPLAINT_BYTES: usize = 200;

/// Most messages that are looked at: the kernel's buffer holds some thousands.
const MAX_MESSAGES: usize = 16_384;

/// A message with its fields is shorter (Linux `kernel/printk/printk.c`, `PRINTK_MESSAGE_MAX`).
const MESSAGE_BYTES: usize = 8192;

/// The kernel changes to high-resolution timers in one of its ticks, some time after the clock
/// source is there. A tick comes every 4 ms; that many missed ones are no delay any more.
const TICK: Duration = Duration::from_millis(4);
const TICKS: u32 = 100;

/// The clock source that the kernel uses until it has measured the processor's counter, a second
/// after it has registered this one (Linux `arch/x86/kernel/tsc.c`, `tsc_refine_calibration_work`).
const EARLY_CLOCK: &str = "tsc-early";

/// That second twice, as the first measurement may only begin then, and one for a busy host.
const CLOCK_TICKS: u32 = 750;

/// Looks at the guest. Takes 0.4 s where there are no high-resolution timers; with `settled` up to
/// 3 s until the clock source is the last one; else no time.
pub(crate) fn examine(settled: bool) -> Condition {
    wait_while(TICKS, || timer_resolution_ns() > 1);
    if settled {
        wait_while(CLOCK_TICKS, || clock_source() == EARLY_CLOCK);
    }
    Condition {
        timer_resolution_ns: timer_resolution_ns(),
        clock_source: clock_source(),
        memory_bytes: {
            let info = rustix::system::sysinfo();
            info.totalram.saturating_mul(u64::from(info.mem_unit))
        },
        complaints: kernel_messages().map_or_else(|_| Vec::new(), |text| complaints(&text)),
    }
}

/// Waits for so many ticks at most.
fn wait_while(ticks: u32, condition: impl Fn() -> bool) {
    for _ in 0..ticks {
        if !condition() {
            return;
        }
        thread::sleep(TICK);
    }
}

fn clock_source() -> String {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(source).unwrap_or_default();
    source.trim().to_owned()
}

/// The resolution of sleeps, clock_getres(2); a tick's length without high-resolution timers.
fn timer_resolution_ns() -> u64 {
    let resolution = clock_getres(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    part(resolution.tv_sec)
        .saturating_mul(1_000_000_000)
        .saturating_add(part(resolution.tv_nsec))
}

/// What the kernel has said so far. Source: Linux `Documentation/ABI/testing/dev-kmsg`.
fn kernel_messages() -> io::Result<String> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut messages = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open("/dev/kmsg")?;
    let mut text = String::new();
    let mut message = [0; MESSAGE_BYTES];
    for _ in 0..MAX_MESSAGES {
        match messages.read(&mut message) {
            Ok(0) => break,
            Ok(length) => text.push_str(&String::from_utf8_lossy(&message[..length])),
            // One was overwritten before it was read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// The complaints among messages, each `level,number,time,flags;text` on a line.
fn complaints(messages: &str) -> Vec<String> {
    let texts = messages
        .lines()
        .filter_map(|line| Some(line.split_once(';')?.1));
    let complains = |text: &&str| COMPLAINTS.iter().any(|complaint| text.contains(complaint));
    texts
        .filter(complains)
        .take(MAX_COMPLAINTS)
        .map(|text| {
            let end = text.floor_char_boundary(MAX_COMPLAINT_BYTES);
            text[..end].to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complaints_about_timers_and_clocks_are_told_and_few_of_them() {
        let messages = "6,1,0,-;Linux version 6.12\n\
                        4,2,31,-;APIC timer disabled due to verification failure\n SUBSYSTEM=x\n";
        assert_eq!(
            complaints(messages),
            ["APIC timer disabled due to verification failure"]
        );
        let long = format!("4,1,0,-;Unable to calibrate {}\n", "ä".repeat(500)).repeat(50);
        let kept = complaints(&long);
        assert_eq!(kept.len(), MAX_COMPLAINTS);
        assert!(kept[0].len() <= MAX_COMPLAINT_BYTES);
    }

    #[test]
    fn this_machine_has_memory_and_a_resolution() {
        let condition = examine(true);
        assert!(condition.memory_bytes > 0);
        assert!(condition.timer_resolution_ns > 0);
    }
}
