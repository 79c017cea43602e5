//! Timing whole commands in pairs.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The times of one command.
#[derive(Clone, Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Of at least one time.
    pub(crate) fn of(mut times: Vec<Duration>) -> Result<Self> {
        if times.is_empty() {
            bail!("Nothing was measured");
        }
        times.sort();
        Ok(Self(times))
    }

    /// The middle one, in milliseconds.
    pub(crate) fn median_ms(&self) -> f64 {
        millis(self.0[self.0.len() / 2])
    }

    /// The shortest, in milliseconds.
    pub(crate) fn min_ms(&self) -> f64 {
        millis(self.0[0])
    }

    /// The longest, in milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        millis(self.0[self.0.len() - 1])
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Two commands, timed in turn.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) ours: Times,
    pub(crate) theirs: Times,
    /// Median of the ratios ours / theirs, pair by pair.
    pub(crate) ratio: f64,
}

/// Runs two commands `runs` times in turn, after one run of each that is not counted.
///
/// # Errors
/// When one fails.
pub(crate) fn pair(
    runs: usize,
    mut ours: impl FnMut() -> Result<Command>,
    mut theirs: impl FnMut() -> Result<Command>,
) -> Result<Pair> {
    time(ours()?)?;
    time(theirs()?)?;
    let mut times = (Vec::new(), Vec::new());
    let mut ratios = Vec::new();
    for _ in 0..runs {
        let (a, b) = (time(ours()?)?, time(theirs()?)?);
        ratios.push(a.as_secs_f64() / b.as_secs_f64());
        times.0.push(a);
        times.1.push(b);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios
        .get(ratios.len() / 2)
        .copied()
        .context("Nothing was measured")?;
    Ok(Pair {
        ours: Times::of(times.0)?,
        theirs: Times::of(times.1)?,
        ratio,
    })
}

/// Runs one command `runs` times.
///
/// # Errors
/// When it fails.
pub(crate) fn alone(runs: usize, mut ours: impl FnMut() -> Result<Command>) -> Result<Times> {
    let times: Result<Vec<Duration>> = (0..runs).map(|_| time(ours()?)).collect();
    Times::of(times?)
}

/// Wall time from before the spawn to after the reaping.
pub(crate) fn time(mut command: Command) -> Result<Duration> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let begin = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("Could not start {command:?}"))?;
    let output = child.wait_with_output()?;
    let elapsed = begin.elapsed();
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_ends_are_kept() {
        let ms = |n| Duration::from_millis(n);
        let times = Times::of(vec![ms(30), ms(10), ms(20)]).unwrap();
        assert_eq!(
            [times.min_ms(), times.median_ms(), times.max_ms()],
            [10.0, 20.0, 30.0]
        );
        assert!(Times::of(Vec::new()).is_err());
    }

    #[test]
    fn a_command_that_fails_is_not_a_measurement() {
        assert!(time(Command::new("false")).is_err());
    }
}
