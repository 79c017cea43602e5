//! Plain data shared by every Cofferdam crate: ids, platforms, sizes, signals, states, specs.
//!
//! Invariant: nothing here does I/O, reads a clock or the environment, or knows a backend.

mod blame;
mod builder;
mod capabilities;
mod digest;
mod id;
mod lease;
mod mac;
mod network;
mod platform;
mod privileges;
mod sandbox;
mod secret;
mod signal;
mod size;
mod status;
mod values;

pub use blame::Blame;
pub use builder::SandboxSpecBuilder;
pub use capabilities::{BridgeBackend, GuestChannel, HostFamily, PlatformCapabilities, VmBackend};
pub use digest::{Digest, ParseDigestError};
pub use id::{ParseIdError, SandboxId, SnapshotId, valid_name};
pub use lease::{LeaseSpec, OnTimeout};
pub use mac::{MacAddress, ParseMacError};
pub use network::{
    HostEntry, NetworkAttachment, NetworkMode, NetworkSpec, ParseNetworkError, PortMapping,
    PortProtocol,
};
pub use platform::{ParsePlatformError, Platform};
pub use privileges::{Capability, CapabilitySet, ParseCapabilityError, Privileges};
pub use sandbox::{
    CpuCount, ExitStatus, PullPolicy, ResourceLimits, Rlimit, SandboxSpec, TmpfsMount, UpperSpec,
};
pub use secret::{
    NamedSecret, ParseSecretError, SecretSource, SecretSpec, SecretValue, host_matches,
};
pub use signal::{ParseSignalError, Signal};
pub use size::{ByteSize, ParseSizeError};
pub use status::SandboxStatus;
pub use values::ParseValueError;
