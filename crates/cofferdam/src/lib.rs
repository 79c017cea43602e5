//! Run code that you did not write in microVMs: the Cofferdam SDK.
//!
//! A [`Coffer`] is a store of images and sandboxes below one directory. A [`Sandbox`] is an
//! isolated workload in a virtual machine of its own; a [`Session`] is one process in it, with
//! its streams. There is no daemon: each live sandbox has a supervisor process, which the SDK
//! starts from the `coffer` program (`COFFER_PROGRAM`, or one beside this program or in `PATH`).
//!
//! ```no_run
//! use cofferdam::{Coffer, ExecSpec, NoProgress, SandboxSpec};
//!
//! # async fn example() -> cofferdam::Result<()> {
//! let coffer = Coffer::open()?;
//! let spec = SandboxSpec::builder("debian")
//!     .command(["sleep", "infinity"])
//!     .build();
//! let sandbox = coffer.create(spec, &NoProgress).await?;
//! sandbox.start().await?;
//! let output = sandbox.output(ExecSpec::new(["uname", "-r"])).await?;
//! println!("{}", String::from_utf8_lossy(&output.stdout));
//! sandbox.remove(true).await?;
//! # Ok(())
//! # }
//! ```
//!
//! API boundary: what is public here is all that a program may rely on. All futures are to be
//! polled on a tokio runtime with its I/O and time drivers enabled.

mod coffer;
mod events;
mod exec;
mod fork_stream;
mod guest_stream;
mod images;
mod info;
mod kept;
mod logs;
mod network;
mod networks;
mod options;
mod pipes;
mod policy;
mod polled;
mod pools;
mod sandbox;
mod session;
mod settings;
mod snapshots;
mod stats;
mod templates;

pub use cofferdam_runtime::{
    Channel, DamagedSnapshot, DiskUsage, EndedBy, Error, ErrorKind, Event, EventKind, ForkChanges,
    ForkOptions, ForkOrigin, LeaseState, LogRecord, NetworkChange, NetworkCounters, NetworkOptions,
    PoolInfo, PoolOptions, Result, Setting, SnapshotKind, SnapshotManifest, SnapshotOptions, Stage,
    Subnet, TemplateInfo, TemplateKind, UsageClass, UsageItem, WarmUp, Watcher,
    doctor::{BackendReport, HostReport},
    image::{
        HistoryEntry, Image, ImageDetails, ImageSummary, LoadSource, LoadedImage, NoProgress,
        Phase, Progress, ProgressEvent, Reference, Removed, SaveFormat,
    },
    read_secret, rfc3339, run_role, unix_time_ns,
};
pub use cofferdam_types::{
    Blame, ByteSize, Capability, CapabilitySet, CpuCount, Digest, ExitStatus, HostEntry, LeaseSpec,
    MacAddress, NamedSecret, NetworkAttachment, NetworkMode, NetworkSpec, OnTimeout,
    ParseNetworkError, ParseSizeError, ParseValueError, Platform, PlatformCapabilities,
    PortMapping, PortProtocol, Privileges, PullPolicy, ResourceLimits, Rlimit, SandboxId,
    SandboxSpec, SandboxSpecBuilder, SandboxStatus, SecretSource, SecretSpec, SecretValue, Signal,
    SnapshotId, TmpfsMount, UpperSpec, valid_name,
};

pub use coffer::Coffer;
pub use events::{EventOptions, Events};
pub use exec::{ExecSpec, Output};
pub use fork_stream::ForkStream;
pub use guest_stream::{GuestStream, GuestStreamReader, GuestStreamWriter};
pub use images::{Images, parse_reference};
pub use info::SandboxInfo;
pub use kept::{ProcessInfo, Processes, SessionId, SessionInfo};
pub use logs::{LogOptions, Logs};
pub use network::{Flow, NetworkDenied, NetworkDetails};
pub use networks::{NetworkInfo, NetworkMember, Networks, SandboxNetwork};
pub use options::CofferOptions;
pub use pipes::{SessionExit, SessionOutput, SessionPipes, SessionStdin};
pub use policy::PolicyText;
pub use pools::Pools;
pub use sandbox::{AttachOptions, Sandbox};
pub use session::{Session, SessionEvent, SessionReader, SessionWriter};
pub use settings::Settings;
pub use snapshots::{Forks, Snapshot, SnapshotInfo, Snapshots};
pub use stats::{SandboxStats, StatsStream};
pub use templates::Templates;
