//! Wall clock, deadlines.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch by the host's wall clock; 0 if the clock is before it.
#[must_use]
pub fn unix_time_ns() -> u64 {
    system_time_ns(SystemTime::now())
}

/// A time as nanoseconds since the Unix epoch: 0 before it, `u64::MAX` after the year 2554.
#[must_use]
pub fn system_time_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// The time so many nanoseconds after the Unix epoch.
#[must_use]
pub fn system_time(unix_ns: u64) -> SystemTime {
    // 584 years at most, which every clock holds.
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

/// A moment after which an operation gives up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    /// Time left; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}

/// `unix_ns` as `2026-11-21T04:05:06.789Z` (RFC 3339, UTC, milliseconds).
#[must_use]
pub fn rfc3339(unix_ns: u64) -> String {
    let millis = unix_ns / 1_000_000 % 1000;
    let seconds = unix_ns / 1_000_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(
            rfc3339(1_795_233_906_789_000_000),
            "2026-11-21T04:05:06.789Z"
        );
    }

    #[test]
    fn a_time_survives_as_a_number() {
        for ns in [0, 1, 1_795_233_906_789_000_001, u64::MAX] {
            assert_eq!(system_time_ns(system_time(ns)), ns);
        }
        assert_eq!(system_time_ns(UNIX_EPOCH - Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_deadline_of_zero_has_passed() {
        assert!(Deadline::after(Duration::ZERO).has_passed());
        assert!(!Deadline::after(Duration::from_secs(60)).has_passed());
    }
}
