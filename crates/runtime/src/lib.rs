//! Sandbox life: the supervisor, the store, exec sessions and templates.
//!
//! The SDK is built on this crate; nothing else uses it. Invariant: names no device and no KVM
//! call; backends are wired in [`host`] and nowhere else.

mod check;
mod client;
mod config;
mod diagnosis;
mod error;
mod guest;
pub mod host;
mod interpreters;
mod layout;
mod log_mark;
mod output_log;
mod pool;
mod process;
mod program;
mod random;
mod removal;
mod request;
mod room;
mod sandbox;
mod silence;
mod snapshot;
mod socket;
mod staging;
mod store;
mod supervisor;
mod template;
mod uppers;
mod usage;

pub use client::{
    Connection, Incoming, LogFollower, LogOptions, Outgoing, Receiver, console_lines,
};
pub use cofferdam_base::time::{rfc3339, unix_time_ns};
pub use cofferdam_image as image;
pub use cofferdam_proto::{
    Channel, ClientMessage, ExecOptions, LiveStatus, ProcessSpec, Request, Stage, StartMode,
    SupervisorMessage, TerminalSize, WhenGone,
};
pub use config::{Config, Setting};
pub use error::{
    Error, ErrorKind, Result, from_remote as remote_failure, lift_image, memory_error,
};
pub use interpreters::Rehearsals;
pub use layout::{Layout, SandboxPaths};
pub use output_log::LogRecord;
pub use pool::{PoolInfo, PoolOptions};
pub use program::run_role;
pub use sandbox::Runtime;
pub use snapshot::{
    DamagedSnapshot, ForkChanges, ForkOptions, ForkSource, Forked, Snapshot, SnapshotFile,
    SnapshotFileName, SnapshotKind, SnapshotManifest, SnapshotOptions,
};
pub use store::{
    EndedBy, Entry, Failure, ForkOrigin, RecordedImage, SandboxRecord, SandboxState, Store,
};
pub use template::{TemplateInfo, TemplateKind, WarmUp};
pub use usage::{DiskUsage, UsageClass, UsageItem};
