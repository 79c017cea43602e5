//! The wire between host and guest, and between client and supervisor.
//!
//! Both wires are one multiplexed byte stream of [`Frame`]s: a fixed header, then control
//! messages (postcard), raw stream bytes, or credit. Knows no socket, clock or thread: bytes in,
//! frames out. Whatever comes from the other side is an allegation until decoded here.
//!
//! ```text
//! [len: u32 LE][stream: u32 LE][kind: u8][channel: u8][flags: u8][0: u8][payload: len bytes]
//! ```

mod client;
mod credit;
mod frame;
mod guest;
mod host;
mod live_network;
mod network;
mod process;
mod target;

pub use client::{
    CLIENT_GENERATION, ClientMessage, ClientRequest, ExecOptions, LiveStatus, NetworkCounters,
    RemoteFailure, Request, SESSION_STREAM, SessionStatus, Stage, StartMode, SupervisorMessage,
    WhenGone,
};
pub use credit::{INITIAL_WINDOW_BYTES, Inbound, Window};
pub use frame::{
    CONTROL_STREAM, Channel, Decoder, FLAG_EOF, Frame, FrameError, FrameKind, HEADER_BYTES,
    MAX_DATA_BYTES, MAX_PAYLOAD_BYTES, decode_control, encode_control, encode_credit, encode_data,
};
pub use guest::{AgentMessage, Condition, Failure, FailureKind, MAX_HOOK_OUTPUT_BYTES};
pub use host::{
    DiskPart, GENERATION_FILE, HostMessage, Identity, IdentityCause, RootSpec, TRUST_BUNDLE,
    TRUST_CERTIFICATE, TmpfsSpec, UpperDevice,
};
pub use live_network::{
    MAX_LISTED_DENIALS, MAX_LISTED_FLOWS, NetworkChange, NetworkDenial, NetworkFlow, NetworkStatus,
};
pub use network::{GuestNetwork, NetworkIdentity};
pub use process::{
    GuestProcess, MAX_LISTED_COMMAND_BYTES, MAX_LISTED_PROCESSES, ProcessList, ProcessSpec,
    TerminalSize,
};
pub use target::StreamTarget;

/// Generation of the host-guest messages. Host and agent are built together, so they must be
/// equal; a template made by another generation is dropped by its key.
pub const GENERATION: u32 = 12;

/// Name of the virtio-console port that carries the stream; virtio 1.2 §5.3.6.2
/// `VIRTIO_CONSOLE_PORT_NAME`, seen in the guest as `/sys/class/virtio-ports/*/name`.
pub const AGENT_PORT_NAME: &str = "cofferdam.agent";

/// Name of the virtio-console port of the file channel.
pub const FILES_PORT_NAME: &str = "cofferdam.files";

/// Serial number of the disk that holds the image's root, seen as `/sys/block/*/serial`.
pub const ROOT_DISK_SERIAL: &str = "root";

/// Serial number of the disk that holds the sandbox's writes.
pub const UPPER_DISK_SERIAL: &str = "upper";
