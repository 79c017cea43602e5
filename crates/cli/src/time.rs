//! Points in time and spans, as people write and read them.

use std::time::Duration;

use cofferdam::{Error, ErrorKind, Result};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A time in nanoseconds since the Unix epoch: RFC 3339, Unix seconds, or a span before `now_ns`.
///
/// # Errors
/// When the text is none of them.
pub(crate) fn parse(text: &str, now_ns: u64) -> Result<u64> {
    let seconds = || {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole = digits(whole)?.checked_mul(SECOND_NS)?;
        whole.checked_add(fraction_ns(fraction)?)
    };
    let ago = || span_ns(text).map(|span| now_ns.saturating_sub(span));
    seconds()
        .or_else(ago)
        .or_else(|| rfc3339(text))
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidSpec, format!("`{text}` is not a time"))
                .hint("Write 2026-11-21T04:05:06Z, 1795233906 or 10m")
        })
}

/// How long something may take: seconds, or a span such as `1m30s`.
///
/// # Errors
/// When the text is neither, or no time at all.
pub(crate) fn parse_duration(text: &str) -> Result<Duration> {
    digits(text)
        .and_then(|seconds| seconds.checked_mul(SECOND_NS))
        .or_else(|| span_ns(text))
        .filter(|ns| *ns > 0)
        .map(Duration::from_nanos)
        .ok_or_else(|| {
            let what = format!("`{text}` is not how long something may take");
            Error::new(ErrorKind::InvalidSpec, what).hint("Write 90, 10s or 1m30s")
        })
}

/// A number without a sign.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Digits behind a point as nanoseconds; what is finer is cut off.
fn fraction_ns(text: &str) -> Option<u64> {
    if text.is_empty() {
        return Some(0);
    }
    digits(&format!("{text:0<9}")[..9]).filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// A span such as `1h30m`, `1.5h` or `300ms`, in nanoseconds. Source: Go's time.ParseDuration, and
/// `d` for days.
fn span_ns(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let unit_ns = match unit {
            "ns" => 1,
            "us" | "µs" => 1000,
            "ms" => 1_000_000,
            "s" => SECOND_NS,
            "m" => MINUTE * SECOND_NS,
            "h" => HOUR * SECOND_NS,
            "d" => DAY * SECOND_NS,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let part = u128::from(fraction_ns(fraction)?) * u128::from(unit_ns) / 1_000_000_000;
        total = total
            .checked_add(digits(whole)?.checked_mul(unit_ns)?)?
            .checked_add(u64::try_from(part).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// `YYYY-MM-DD[Thh:mm:ss[.fraction]][Z|±hh:mm]` in nanoseconds since the Unix epoch; UTC when it
/// names no zone. Source: RFC 3339 §5.6.
pub(crate) fn rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text
        .split_once(['T', 't', ' '])
        .unwrap_or((text, "00:00:00Z"));
    let days = date_days(date)?;
    let zone = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = fields(clock, ':')?;
    // 60 is a leap second, which Unix time does not count.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = days.checked_mul(DAY)? + hour * HOUR + minute * MINUTE + second;
    let seconds = match zone.split_at_checked(1) {
        None | Some(("Z" | "z", "")) => local,
        Some((sign, offset)) => {
            let [hours, minutes] = fields(offset, ':')?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * HOUR + minutes * MINUTE;
            match sign {
                "+" => local.checked_sub(offset)?,
                "-" => local + offset,
                _ => return None,
            }
        }
    };
    seconds
        .checked_mul(SECOND_NS)?
        .checked_add(fraction_ns(fraction)?)
}

/// Exactly `N` numbers of at least two digits.
fn fields<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> = text
        .split(separator)
        .map(|field| digits(field).filter(|_| (2..=4).contains(&field.len())))
        .collect();
    numbers?.try_into().ok()
}

/// Days from 1970-01-01 to a date that exists.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
fn date_days(text: &str) -> Option<u64> {
    let [year, month, day] = fields(text, '-')?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last_day = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=last_day).contains(&day) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

/// How long ago a time was, in words: `3 minutes ago`.
pub(crate) fn ago(then_ns: u64, now_ns: u64) -> String {
    format!("{} ago", span(now_ns.saturating_sub(then_ns)))
}

/// A span in its largest unit, in Docker's words. Source: docker/go-units, HumanDuration.
pub(crate) fn span(ns: u64) -> String {
    let seconds = ns / SECOND_NS;
    let days = seconds / DAY;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        _ if seconds < 2 * MINUTE => "About a minute".to_owned(),
        _ if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
        _ if seconds < 2 * HOUR => "About an hour".to_owned(),
        _ if seconds < 2 * DAY => format!("{} hours", seconds / HOUR),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => format!("{} weeks", days / 7),
        _ if days < 730 => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_233_906 * SECOND_NS;

    #[test]
    fn times_are_understood_in_every_form() {
        for (text, ns) in [
            ("1700000000", 1_700_000_000 * SECOND_NS),
            ("1700000000.5", 1_700_000_000 * SECOND_NS + 500_000_000),
            ("10m", NOW - 600 * SECOND_NS),
            ("1h30m", NOW - 5400 * SECOND_NS),
            ("1.5h", NOW - 5400 * SECOND_NS),
            ("300ms", NOW - 300_000_000),
            ("2d", NOW - 172_800 * SECOND_NS),
            ("1970-01-02T00:00:01.5Z", 86_401_500_000_000),
            ("1970-01-02", 86_400 * SECOND_NS),
            ("2026-11-21T04:05:06Z", NOW),
            ("2026-11-21T05:05:06+01:00", NOW),
            ("2026-11-20T23:05:06-05:00", NOW),
            ("2000-02-29", 951_782_400 * SECOND_NS),
        ] {
            assert_eq!(parse(text, NOW).unwrap(), ns, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "x",
            "10y",
            "-1",
            "+5",
            "m",
            "1.2.3",
            "2026-13-01",
            "2026-02-29",
            "2026-01-01T1",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00Zx",
            "1969-12-31T00:00:00Z",
            "99999999999999999999",
        ] {
            assert!(parse(bad, NOW).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_sdk_prints_is_read_back() {
        for ns in [0, NOW, NOW + 123_000_000, 4_102_444_799 * SECOND_NS] {
            assert_eq!(rfc3339(&cofferdam::rfc3339(ns)), Some(ns));
        }
    }

    #[test]
    fn spans_are_in_dockers_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (DAY * 3, "3 days"),
            (DAY * 15, "2 weeks"),
            (DAY * 61, "2 months"),
            (DAY * 800, "2 years"),
        ] {
            assert_eq!(span(seconds * SECOND_NS), words);
        }
        assert_eq!(ago(NOW - 5 * SECOND_NS, NOW), "5 seconds ago");
        assert_eq!(ago(NOW + SECOND_NS, NOW), "Less than a second ago");
    }

    #[test]
    fn a_limit_is_seconds_or_a_span_and_not_nothing() {
        let limit = |text| parse_duration(text).ok();
        assert_eq!(limit("90"), Some(Duration::from_secs(90)));
        assert_eq!(limit("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(limit("1.5s"), Some(Duration::from_millis(1500)));
        for bad in ["", "0", "0s", "-1", "ten", "10x"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }
}
