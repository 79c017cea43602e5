//! Sandbox life: the supervisor, the store, exec sessions and templates.
//!
//! The SDK is built on this crate; nothing else uses it. Invariant: names no device and no KVM
//! call; backends are wired in [`backends`] and nowhere else.

mod backends;
mod base;
mod client;
pub mod doctor;
mod host;
mod link;
#[cfg(test)]
mod machine_tests;
mod network;
mod pool;
mod roles;
mod runtime;
mod sandbox;
mod snapshot;
mod spec;
mod start;
mod store;
mod supervisor;
mod template;
mod usage;

pub use client::{
    Connection, EventFollower, Incoming, LogFollower, LogOptions, Outgoing, Receiver, console_lines,
};
pub use cofferdam_base::time::{rfc3339, system_time, system_time_ns, unix_time_ns};
pub use cofferdam_image as image;
pub use cofferdam_proto::{
    Channel, ClientMessage, ExecOptions, GuestProcess, LiveStatus, NetworkChange, NetworkCounters,
    NetworkDenial, NetworkFlow, NetworkStatus, ProcessList, ProcessSpec, Request, SessionStatus,
    Stage, StartMode, StreamTarget, SupervisorMessage, TerminalSize, WhenGone,
};

pub use base::error::{
    Error, ErrorKind, Result, from_remote as remote_failure, lift_image, memory_error,
};
pub use network::{Interface, interface, read_policy, read_secret};
pub use pool::{PoolInfo, PoolOptions};
pub use roles::run_role;
pub use runtime::Runtime;
pub use snapshot::{
    DamagedSnapshot, ForkChanges, ForkOptions, ForkSource, Forked, Snapshot, SnapshotOptions,
    Watcher,
};
pub use spec::interpreters::AutoWarmUps;
pub use store::config::{Config, Setting};

pub use store::layout::{Layout, SandboxPaths};
pub use store::networks::{MemberRecord, NetworkOptions, NetworkRecord, Networks, Subnet};
pub use store::output_log::LogRecord;
pub use store::snapshot::{SnapshotFile, SnapshotFileName, SnapshotKind, SnapshotManifest};
pub use store::{
    Choices, EndedBy, Entry, Event, EventKind, Failure, ForkOrigin, LeaseState, RecordedImage,
    SandboxRecord, SandboxState, Store,
};
pub use template::{TemplateInfo, TemplateKind, WarmUp};
pub use usage::{DiskUsage, UsageClass, UsageItem};
