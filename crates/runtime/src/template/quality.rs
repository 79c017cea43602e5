//! Whether a guest is fit to be a template.
//!
//! A guest settles its timers, its clock and its memory once, at boot. On a busy host that can go
//! wrong ("APIC timer disabled due to verification failure"), and every sandbox of the template
//! would sleep in steps of 4 ms for ever. So the guest is asked before it is captured; one that is
//! not fit is thrown away and another is made.

use cofferdam_proto::{AgentMessage, CONTROL_STREAM, Condition, HostMessage};

use super::{MachineShape, Template};
use crate::{
    base::{
        error::{Error, ErrorKind, Result},
        task::log_line,
    },
    link::AgentLink,
};

/// How many guests are made before there is no template. With 5 bad ones of 9, as seen on a loaded
/// host, six in a row are 3 in 100. Each takes a boot.
const ATTEMPTS: u32 = 6;

/// Nanoseconds of a high-resolution timer's step (Linux `kernel/time/hrtimer.c`,
/// `hrtimer_resolution`).
const HIGH_RESOLUTION_NS: u64 = 1;

/// Clock sources that only count ticks.
const COARSE_CLOCKS: [&str; 2] = ["jiffies", "refined-jiffies"];

/// What came of one attempt to make a template.
#[derive(Debug)]
pub(super) enum Attempt {
    Made(Template),
    /// Nobody needs it any more.
    Unwanted,
    /// The guest is sound but not one to be copied, for this reason.
    Unfit(String),
}

/// Makes a template, with another guest when one is not fit; `None` if nobody needs it any more.
///
/// # Errors
/// Those of `make`, and [`ErrorKind::GuestFailed`] when no guest was fit.
pub(super) async fn in_attempts(
    make: impl AsyncFn() -> Result<Attempt>,
) -> Result<Option<Template>> {
    let mut reason = String::new();
    for number in 1..=ATTEMPTS {
        match make().await? {
            Attempt::Made(template) => return Ok(Some(template)),
            Attempt::Unwanted => return Ok(None),
            Attempt::Unfit(why) => {
                log_line(&format!(
                    "Guest {number} is not fit to be a template: {why}"
                ));
                reason = why;
            }
        }
    }
    let what = format!("None of {ATTEMPTS} guests was fit to be a template: {reason}");
    Err(Error::new(ErrorKind::GuestFailed, what)
        .hint("On a host that is busy a guest may not set its timers right; try again later"))
}

/// Asks a guest; the reason if it is not fit. With `settled` the guest first comes to its last
/// clock source: for a template that nobody waits for, as this may take a second or two.
pub(super) async fn unfit(
    agent: &mut AgentLink,
    shape: &MachineShape,
    settled: bool,
) -> Result<Option<String>> {
    agent
        .send(&[(CONTROL_STREAM, HostMessage::Examine { settled })])
        .await?;
    let condition = agent
        .expect(CONTROL_STREAM, |message| match message {
            AgentMessage::Condition(condition) => Some(condition.clone()),
            _ => None,
        })
        .await?;
    Ok(judge(&condition, u64::from(shape.memory_mib) << 20))
}

/// What is wrong with a guest that was given `memory_bytes`.
fn judge(condition: &Condition, memory_bytes: u64) -> Option<String> {
    if let Some(complaint) = condition.complaints.first() {
        return Some(format!("its kernel says `{}`", complaint.escape_debug()));
    }
    if condition.timer_resolution_ns > HIGH_RESOLUTION_NS {
        return Some(format!(
            "its timers have steps of {} us",
            condition.timer_resolution_ns / 1000
        ));
    }
    if COARSE_CLOCKS.contains(&condition.clock_source.as_str()) {
        return Some(format!("its clock is `{}`", condition.clock_source));
    }
    // The kernel takes 16 MiB and some per cent for itself.
    if condition.memory_bytes < memory_bytes / 2 {
        return Some(format!(
            "it has {} MiB of the {} MiB of memory",
            condition.memory_bytes >> 20,
            memory_bytes >> 20
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, path::PathBuf};

    use super::*;

    fn good() -> Condition {
        Condition {
            timer_resolution_ns: 1,
            clock_source: "tsc".to_owned(),
            memory_bytes: 480 << 20,
            complaints: Vec::new(),
        }
    }

    #[test]
    fn a_guest_without_fine_timers_a_clock_or_its_memory_is_not_fit() {
        assert_eq!(judge(&good(), 512 << 20), None);
        let complaint = "APIC timer disabled due to verification failure".to_owned();
        for bad in [
            Condition {
                timer_resolution_ns: 4_000_000,
                ..good()
            },
            Condition {
                clock_source: "refined-jiffies".to_owned(),
                ..good()
            },
            Condition {
                memory_bytes: 100 << 20,
                ..good()
            },
            Condition {
                complaints: vec![complaint],
                ..good()
            },
        ] {
            assert!(judge(&bad, 512 << 20).is_some(), "{bad:?}");
        }
    }

    /// What comes of guests of which the first so many are not fit, and how many were made.
    async fn made(bad: u32) -> (Result<Option<Template>>, u32) {
        let count = Cell::new(0);
        let made = in_attempts(async || {
            count.set(count.get() + 1);
            Ok(if count.get() <= bad {
                Attempt::Unfit("its clock is `jiffies`".to_owned())
            } else {
                Attempt::Made(Template {
                    dir: PathBuf::from("/t"),
                })
            })
        });
        (made.await, count.get())
    }

    #[tokio::test]
    async fn a_bad_guest_is_replaced_a_bounded_number_of_times() {
        let (template, guests) = made(ATTEMPTS - 1).await;
        assert!(template.unwrap().is_some());
        assert_eq!(guests, ATTEMPTS);
        let (none, guests) = made(100).await;
        let error = none.unwrap_err();
        assert_eq!((error.kind(), guests), (ErrorKind::GuestFailed, ATTEMPTS));
        assert!(error.to_string().contains("jiffies"), "{error}");
    }
}
