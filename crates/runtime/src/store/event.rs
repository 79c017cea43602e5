//! What happens to sandboxes, as the journal keeps it.

use std::time::SystemTime;

use cofferdam_base::time::{system_time, unix_time_ns};
use cofferdam_types::{ExitStatus, SandboxId, SnapshotId};
use serde::{Deserialize, Serialize};

use super::record::{EndedBy, SandboxRecord, SandboxState};

/// Longest command that an event has, in characters.
const COMMAND_CHARS: usize = 200;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// When, in nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Id of the sandbox; none for an event of the journal itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxId>,
    /// Name of the sandbox.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its image as it was asked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// What it was.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A sandbox was made.
    Created,
    /// A sandbox was made as a fork.
    Forked {
        /// The sandbox whose state it has.
        source: SandboxId,
        /// The snapshot that kept that state; none if it came from the sandbox itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotId>,
    },
    /// A sandbox has the state of a snapshot again.
    Restored {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// The workload runs.
    Started,
    /// A command beside the workload runs.
    ExecStarted {
        /// Number of its session.
        session: u32,
        /// Program and arguments; a long command is cut.
        command: String,
    },
    /// Such a command ended.
    ExecEnded {
        /// Number of its session.
        session: u32,
        /// Its exit code, 128 + n for a signal.
        exit_code: u8,
    },
    /// The guest's kernel has killed processes because memory ran out.
    Oom {
        /// How many since the start.
        kills: u64,
    },
    /// The vCPUs were stopped.
    Paused {
        /// The time-out that did it; none for a client.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<EndedBy>,
    },
    /// They go on.
    Unpaused,
    /// A client has changed when the time of the sandbox is over.
    TimeoutChanged {
        /// The new end in nanoseconds since the Unix epoch; none without an end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ends_ns: Option<u64>,
    },
    /// The policy of its network has refused something.
    NetworkDenied {
        /// Address, port and protocol, or the name that was asked for.
        destination: String,
        /// Why.
        reason: String,
        /// The rule that would allow it, without the word `allow`; none if no rule does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allow: Option<String>,
    },
    /// Its network has something to tell: resolvers that do not answer, a limit that is reached, or
    /// its own end.
    Network {
        /// A sentence without a full stop.
        message: String,
    },
    /// A client has changed its network while it ran.
    NetworkChanged {
        /// What is different now, such as `allow example.com:443 is new`.
        changes: Vec<String>,
    },
    /// A snapshot was taken of it.
    Snapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// The workload ended, or the sandbox failed.
    Died {
        /// Exit code of the workload, 128 + n for a signal; none if it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<u8>,
        /// What ended it; none if it ended by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<EndedBy>,
        /// Whether the guest's kernel has killed a process since the start because memory ran out.
        #[serde(default)]
        oom: bool,
        /// Why the sandbox failed, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// The sandbox was removed.
    Removed,
    /// Events before this one are not kept any more, and this reader has not read them.
    Missed,
    /// A type that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// When it happened.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        system_time(self.time_ns)
    }

    /// Something that has just happened to a sandbox.
    pub(crate) fn now(record: &SandboxRecord, kind: EventKind) -> Self {
        Self {
            time_ns: unix_time_ns(),
            sandbox: Some(record.id),
            name: record.name.clone(),
            image: record.image.name.clone(),
            kind,
        }
    }

    /// A gap in the journal.
    pub(crate) fn missed() -> Self {
        Self {
            time_ns: unix_time_ns(),
            sandbox: None,
            name: String::new(),
            image: String::new(),
            kind: EventKind::Missed,
        }
    }
}

impl EventKind {
    /// The names of all types that this version writes.
    pub const NAMES: [&str; 17] = [
        "created",
        "forked",
        "restored",
        "started",
        "exec_started",
        "exec_ended",
        "oom",
        "paused",
        "unpaused",
        "timeout_changed",
        "network_denied",
        "network",
        "network_changed",
        "snapshot",
        "died",
        "removed",
        "missed",
    ];

    /// The name of its type, such as `exec_started`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Forked { .. } => "forked",
            Self::Restored { .. } => "restored",
            Self::Started => "started",
            Self::ExecStarted { .. } => "exec_started",
            Self::ExecEnded { .. } => "exec_ended",
            Self::Oom { .. } => "oom",
            Self::Paused { .. } => "paused",
            Self::Unpaused => "unpaused",
            Self::TimeoutChanged { .. } => "timeout_changed",
            Self::Snapshot { .. } => "snapshot",
            Self::Died { .. } => "died",
            Self::Removed => "removed",
            Self::Missed => "missed",
            Self::NetworkDenied { .. } => "network_denied",
            Self::Network { .. } => "network",
            Self::NetworkChanged { .. } => "network_changed",
            Self::Unknown => "unknown",
        }
    }

    /// The start of a command.
    pub(crate) const fn exec_started(session: u32, command: String) -> Self {
        Self::ExecStarted { session, command }
    }

    /// The end of a sandbox whose state is final.
    pub(crate) fn died(state: &SandboxState) -> Self {
        Self::Died {
            exit_code: state.exit.map(ExitStatus::code),
            by: state.ended_by,
            oom: state.oom_kills > 0,
            failure: state
                .failure
                .as_ref()
                .map(|failure| failure.message.clone()),
        }
    }
}

/// A command as one text of bounded length.
pub(crate) fn cut_command(argv: &[String]) -> String {
    let mut command = String::new();
    let mut room = COMMAND_CHARS;
    for word in argv {
        if !command.is_empty() {
            command.push(' ');
            room = room.saturating_sub(1);
        }
        let part: String = word.chars().take(room).collect();
        room -= part.chars().count();
        command.push_str(&part);
        if room == 0 {
            break;
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_the_name_that_stands_in_the_file() {
        let id = SandboxId::from_random([1; 32]);
        let snapshot = SnapshotId::from_random([2; 32]);
        let all = [
            EventKind::Created,
            EventKind::Forked {
                source: id,
                snapshot: None,
            },
            EventKind::Restored { snapshot },
            EventKind::Started,
            EventKind::exec_started(2, "a".to_owned()),
            EventKind::ExecEnded {
                session: 2,
                exit_code: 1,
            },
            EventKind::Oom { kills: 1 },
            EventKind::Paused { by: None },
            EventKind::Unpaused,
            EventKind::TimeoutChanged { ends_ns: None },
            EventKind::NetworkDenied {
                destination: "10.0.0.1:80/tcp".to_owned(),
                reason: "it is private".to_owned(),
                allow: None,
            },
            EventKind::Network {
                message: "No resolver answered".to_owned(),
            },
            EventKind::NetworkChanged {
                changes: vec!["profile none".to_owned()],
            },
            EventKind::Snapshot { snapshot },
            EventKind::died(&SandboxState::created()),
            EventKind::Removed,
            EventKind::Missed,
        ];
        let names: Vec<_> = all.iter().map(EventKind::name).collect();
        assert_eq!(names, EventKind::NAMES);
        for kind in all {
            let event = Event {
                kind,
                ..Event::missed()
            };
            let value = serde_json::to_value(&event).unwrap();
            assert_eq!(value["type"], event.kind.name());
            assert_eq!(serde_json::from_value::<Event>(value).unwrap(), event);
        }
    }

    #[test]
    fn a_type_of_a_newer_version_is_read_as_unknown() {
        let text = r#"{"time_ns":1,"type":"moved","to":"mars"}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!((event.time_ns, event.kind), (1, EventKind::Unknown));
    }

    #[test]
    fn a_long_command_is_cut() {
        let argv = vec!["x".repeat(150), "y".repeat(10_000), "z".to_owned()];
        assert_eq!(cut_command(&argv).chars().count(), COMMAND_CHARS);
        assert_eq!(cut_command(&["ls".to_owned(), "-l".to_owned()]), "ls -l");
    }
}
