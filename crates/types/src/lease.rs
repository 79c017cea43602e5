//! How long a sandbox may run before it ends, or is paused, by itself.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// The time-outs of a sandbox. They begin anew at each start, restore and fork.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseSpec {
    /// The longest time from the start of the workload; no limit when absent. Whole milliseconds
    /// are kept.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Option<Duration>,
    /// The longest time in which nothing uses the sandbox: no command beside the workload runs, no
    /// client is attached, and no session has input or output. No limit when absent. Whole
    /// milliseconds are kept.
    #[serde(rename = "idle_timeout_ms", with = "millis")]
    pub idle_timeout: Option<Duration>,
    /// What happens when one of them is over.
    pub on_timeout: OnTimeout,
}

impl LeaseSpec {
    /// Whether there is a time-out.
    #[must_use]
    pub const fn has_timeout(&self) -> bool {
        self.timeout.is_some() || self.idle_timeout.is_some()
    }

    /// Whether it is the default; such a lease is left out of files.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to a sandbox whose time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnTimeout {
    /// Its workload gets SIGKILL, and the sandbox ends.
    #[default]
    Kill,
    /// It is paused. It keeps its memory, and goes on when a client unpauses it.
    Pause,
}

impl FromStr for OnTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kill" => Ok(Self::Kill),
            "pause" => Ok(Self::Pause),
            other => Err(format!("`{other}` is not `kill` or `pause`")),
        }
    }
}

impl fmt::Display for OnTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
        })
    }
}

/// An optional duration as a number of milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    #[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        time.map(millis).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_kept_in_milliseconds() {
        let lease = LeaseSpec {
            timeout: Some(Duration::from_millis(90_500)),
            on_timeout: OnTimeout::Pause,
            ..LeaseSpec::default()
        };
        let text = serde_json::to_string(&lease).unwrap();
        let expected = r#"{"timeout_ms":90500,"idle_timeout_ms":null,"on_timeout":"pause"}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<LeaseSpec>(&text).unwrap(), lease);
        assert!(!lease.is_default() && LeaseSpec::default().is_default());
    }

    #[test]
    fn what_happens_at_the_end_is_read_by_name() {
        for (text, expected) in [("kill", OnTimeout::Kill), ("pause", OnTimeout::Pause)] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string(), text);
        }
        assert!("Kill".parse::<OnTimeout>().is_err());
    }
}
