//! The life of a sandbox as one transition table.
//!
//! ```text
//! Created ─► Starting ─► Running ◄──► Paused
//!    ▲          │           │            │
//!    │          ▼           ▼            ▼
//!    │        Failed ◄── Stopping ◄──────┘
//!    │          │           ▼
//!    └─ restart ┴────── Stopped
//! ```
//! (`Stopped` and `Failed` may become `Starting` again; nothing becomes `Created`.)

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxStatus {
    /// It has a directory and a spec; no machine has run yet.
    Created,
    /// Its machine is being made.
    Starting,
    /// Its workload runs.
    Running,
    /// Its vCPUs are stopped; memory and disk are kept.
    Paused,
    /// It was asked to end and has not yet.
    Stopping,
    /// Its workload ended; the exit status is known.
    Stopped,
    /// Its machine could not start, or was lost; the reason is kept.
    Failed,
}

impl SandboxStatus {
    /// Every status, for tests and for `--filter`.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    /// The whole transition table.
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        use SandboxStatus::{Created, Failed, Paused, Running, Starting, Stopped, Stopping};
        matches!(
            (self, next),
            (Created | Stopped | Failed, Starting)
                | (Starting, Running | Stopping | Failed)
                | (Running, Paused | Stopping | Stopped | Failed)
                | (Paused, Running | Stopping | Failed)
                | (Stopping, Stopped | Failed)
        )
    }

    /// Whether a supervisor and a machine exist for this status.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running | Self::Paused | Self::Stopping
        )
    }
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_table_is_exactly_this() {
        use SandboxStatus::*;
        let allowed = [
            (Created, Starting),
            (Starting, Running),
            (Starting, Stopping),
            (Starting, Failed),
            (Running, Paused),
            (Running, Stopping),
            (Running, Stopped),
            (Running, Failed),
            (Paused, Running),
            (Paused, Stopping),
            (Paused, Failed),
            (Stopping, Stopped),
            (Stopping, Failed),
            (Stopped, Starting),
            (Failed, Starting),
        ];
        for from in SandboxStatus::ALL {
            for to in SandboxStatus::ALL {
                assert_eq!(
                    from.can_become(to),
                    allowed.contains(&(from, to)),
                    "{from} -> {to}"
                );
            }
        }
    }

    #[test]
    fn a_status_that_is_not_live_can_only_start() {
        for status in SandboxStatus::ALL
            .into_iter()
            .filter(|status| !status.is_live())
        {
            for next in SandboxStatus::ALL {
                assert!(!status.can_become(next) || next == SandboxStatus::Starting);
            }
        }
    }
}
