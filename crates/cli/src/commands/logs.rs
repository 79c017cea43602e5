//! `logs`.

use std::io::{self, Write};

use cofferdam::{Channel, Coffer, Error, ErrorKind, LogOptions, LogRecord, Result};

use crate::{args::LogsArgs, exit_status::ExitStatus};

/// Prints a sandbox's output, each channel where it came from.
pub(crate) async fn logs(coffer: &Coffer, args: &LogsArgs) -> ExitStatus {
    match print(coffer, args).await {
        Ok(()) => ExitStatus::Success,
        Err(error) => ExitStatus::Error(error),
    }
}

async fn print(coffer: &Coffer, args: &LogsArgs) -> Result<()> {
    let now = cofferdam::unix_time_ns();
    let time = |text: &Option<String>| {
        text.as_deref()
            .map(|text| parse_time(text, now))
            .transpose()
    };
    let options = LogOptions {
        follow: args.follow,
        tail: match args.tail.as_deref() {
            None | Some("all") => None,
            Some(lines) => Some(lines.parse().map_err(|_| {
                Error::new(
                    ErrorKind::InvalidSpec,
                    format!("`{lines}` is not a number of lines"),
                )
            })?),
        },
        since_ns: time(&args.since)?,
        until_ns: time(&args.until)?,
    };
    let mut logs = coffer.sandbox(&args.sandbox)?.logs(&options)?;
    let mut at_line_start = true;
    while let Some(record) = logs.next().await? {
        let bytes = if args.timestamps {
            stamped(&record, &mut at_line_start)
        } else {
            record.bytes
        };
        let written = match record.channel {
            Channel::Stderr => io::stderr().lock().write_all(&bytes),
            _ => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
        };
        if written.is_err() {
            // Nobody reads any more.
            return Ok(());
        }
    }
    Ok(())
}

/// The record with its time before each line that begins in it.
fn stamped(record: &LogRecord, at_line_start: &mut bool) -> Vec<u8> {
    let stamp = format!("{} ", cofferdam::rfc3339(record.time_ns));
    let mut out = Vec::with_capacity(record.bytes.len() + stamp.len());
    for byte in &record.bytes {
        if *at_line_start {
            out.extend_from_slice(stamp.as_bytes());
        }
        out.push(*byte);
        *at_line_start = *byte == b'\n';
    }
    out
}

/// A time in nanoseconds since the Unix epoch: RFC 3339 in UTC, Unix seconds, or a duration
/// before `now` such as `10m`.
fn parse_time(text: &str, now: u64) -> Result<u64> {
    let invalid = || {
        Error::new(ErrorKind::InvalidSpec, format!("`{text}` is not a time"))
            .hint("Write 2026-11-21T04:05:06Z, 1795233906 or 10m")
    };
    if let Some((number, unit)) = text.split_at_checked(text.len().saturating_sub(1)) {
        let seconds = match unit {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            "d" => Some(86_400),
            _ => None,
        };
        if let (Some(seconds), Ok(count)) = (seconds, number.parse::<u64>()) {
            let ago = count
                .checked_mul(seconds)
                .and_then(|s| s.checked_mul(1_000_000_000));
            return ago.map(|ago| now.saturating_sub(ago)).ok_or_else(invalid);
        }
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1_000_000_000).ok_or_else(invalid);
    }
    parse_rfc3339(text).ok_or_else(invalid)
}

/// `YYYY-MM-DD[Thh:mm:ss[.fraction]][Z]`, UTC only.
fn parse_rfc3339(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = whole.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + day_of_year
        - 719_468;
    let seconds = u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_in_three_forms() {
        let now = 1_000_000_000_000;
        assert_eq!(parse_time("10m", now).unwrap(), now - 600_000_000_000);
        assert_eq!(
            parse_time("1700000000", now).unwrap(),
            1_700_000_000_000_000_000
        );
        assert_eq!(
            parse_time("1970-01-02T00:00:01.5Z", now).unwrap(),
            86_401_500_000_000
        );
        assert_eq!(
            parse_time("2026-11-21T04:05:06Z", now).unwrap() / 1_000_000_000,
            1_795_233_906
        );
        for bad in ["", "x", "10y", "2026-13-01", "2026-01-01T1"] {
            assert!(parse_time(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_line_is_stamped_once() {
        let record = |bytes: &[u8]| LogRecord {
            time_ns: 0,
            channel: Channel::Stdout,
            bytes: bytes.to_vec(),
        };
        let mut start = true;
        let first = stamped(&record(b"a\nb"), &mut start);
        let second = stamped(&record(b"c\n"), &mut start);
        let stamp = "1970-01-01T00:00:00.000Z ";
        assert_eq!(
            String::from_utf8(first).unwrap(),
            format!("{stamp}a\n{stamp}b")
        );
        assert_eq!(second, b"c\n");
    }
}
