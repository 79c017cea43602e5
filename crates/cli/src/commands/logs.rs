//! `logs`.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use cofferdam::{Channel, Coffer, Error, ErrorKind, LogOptions, LogRecord, Result};

use crate::{args::LogsArgs, exit_status::ExitStatus, output, time};

/// Prints a sandbox's output, each channel where it came from.
pub(crate) async fn logs(coffer: &Coffer, args: &LogsArgs) -> ExitStatus {
    match print(coffer, args).await {
        Ok(()) => ExitStatus::Success,
        Err(error) => ExitStatus::Error(error),
    }
}

/// How many lines are asked for; none is all of them, as is a number below 0 in Docker.
fn tail(lines: &str) -> Result<Option<usize>> {
    if lines == "all" || lines.parse::<i64>().is_ok_and(|lines| lines < 0) {
        return Ok(None);
    }
    let invalid = |_| {
        let what = format!("`{lines}` is not a number of lines");
        Error::new(ErrorKind::InvalidSpec, what).hint("-1 and `all` mean all lines")
    };
    lines.parse().map(Some).map_err(invalid)
}

async fn print(coffer: &Coffer, args: &LogsArgs) -> Result<()> {
    let now = cofferdam::unix_time_ns();
    let point = |text: &Option<String>| {
        text.as_deref()
            .map(|text| Ok(UNIX_EPOCH + Duration::from_nanos(time::parse(text, now)?)))
            .transpose()
    };
    let tail = args.tail.as_deref().map_or(Ok(None), tail)?;
    if args.kernel {
        let sandbox = coffer.sandbox(&args.sandbox)?;
        let lines = sandbox.kernel_log(tail.unwrap_or(usize::MAX))?;
        // A closed pipe ends the list.
        let _ = lines
            .iter()
            .all(|line| output::line(output::printable(line)));
        return Ok(());
    }
    let options = LogOptions {
        follow: args.follow,
        tail,
        since: point(&args.since)?,
        until: point(&args.until)?,
    };
    let mut logs = coffer.sandbox(&args.sandbox)?.logs(&options)?;
    // Each channel has lines of its own.
    let (mut out_at_start, mut err_at_start) = (true, true);
    while let Some(record) = logs.next().await? {
        if record.channel == Channel::Stdin {
            // A mark is no output of the workload: it goes where our own notes go.
            let text = String::from_utf8_lossy(&record.bytes).trim_end().to_owned();
            let stamp = cofferdam::rfc3339(record.time_ns);
            output::note(format_args!("--- {stamp} {} ---", output::printable(&text)));
            continue;
        }
        let bytes = if args.timestamps {
            let at_line_start = match record.channel {
                Channel::Stderr => &mut err_at_start,
                _ => &mut out_at_start,
            };
            stamped(&record, at_line_start)
        } else {
            record.bytes
        };
        let written = match record.channel {
            Channel::Stderr => io::stderr().lock().write_all(&bytes).is_ok(),
            _ => output::bytes(&bytes),
        };
        if !written {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_below_zero_is_all() {
        for (text, lines) in [
            ("all", None),
            ("-1", None),
            ("-7", None),
            ("0", Some(0)),
            ("3", Some(3)),
        ] {
            assert_eq!(tail(text).unwrap(), lines, "{text}");
        }
        assert!(tail("x").is_err() && tail("").is_err() && tail("1.5").is_err());
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
