//! The time-outs of a sandbox, and the verb that changes one.

use std::time::Duration;

use cofferdam::{LeaseSpec, OnTimeout, Result};

use crate::time::parse_duration;

/// How long a sandbox may run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct LeaseArgs {
    /// End the sandbox this long after its start, such as 90, 10m or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// End it when nothing has used it for this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Option<Duration>,
    /// What happens when a time-out is over: kill or pause
    #[arg(long, value_name = "WHAT")]
    on_timeout: Option<OnTimeout>,
}

impl LeaseArgs {
    /// The time-outs that were asked for, and no others.
    pub(crate) fn lease(&self) -> LeaseSpec {
        LeaseSpec {
            timeout: self.timeout,
            idle_timeout: self.idle_timeout,
            on_timeout: self.on_timeout.unwrap_or_default(),
        }
    }

    /// The same; none if nothing was asked for.
    pub(crate) fn given(&self) -> Option<LeaseSpec> {
        Some(self.lease()).filter(|lease| !lease.is_default())
    }
}

/// Change when a sandbox's time is over.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coffer timeout web 10m\n  coffer timeout --extend web 1h\n  coffer timeout web none"
)]
pub(crate) struct TimeoutArgs {
    /// Only make it later
    #[arg(long)]
    pub(crate) extend: bool,
    /// Sandbox
    pub(crate) sandbox: String,
    /// Time from now, such as 90, 10m or 1h30m; none for no time-out
    #[arg(value_name = "DURATION", value_parser = TimeLeft::parse)]
    pub(crate) time: TimeLeft,
}

/// The time that a sandbox has from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeLeft {
    /// So long.
    Limit(Duration),
    /// Without end.
    Unlimited,
}

impl TimeLeft {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::Unlimited),
            text => parse_duration(text).map(Self::Limit),
        }
    }

    /// The limit, if there is one.
    pub(crate) const fn limit(self) -> Option<Duration> {
        match self {
            Self::Limit(time) => Some(time),
            Self::Unlimited => None,
        }
    }
}
