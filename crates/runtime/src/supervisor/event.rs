//! What happens to a supervisor: the one queue that its switchboard works off.

use std::time::Duration;

use cofferdam_proto::{
    AgentMessage, Channel, ClientMessage, ClientRequest, NetworkStatus, ProcessList,
};
use cofferdam_types::PortMapping;
use tokio::{net::UnixStream, sync::mpsc};

use crate::{base::error::Result, link::FromAgent, store::SandboxRecord};

/// A connection's number, never reused.
pub(crate) type ClientId = u64;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something came from the agent, or its channel is of no further use.
    Agent(FromAgent),
    /// Somebody connected.
    Connected(UnixStream),
    /// A client said something.
    Client(ClientId, ClientEvent),
    /// SIGTERM, or the like, to the supervisor.
    Terminated,
    /// The time that a stop allows is over.
    StopTimeout,
    /// The time that a command has is over, or that which its end has.
    ExecTimeLimit(u32),
    /// The start is over: what it has touched can be recorded, and the image's template made.
    TemplateTime,
    /// The disk's file is to be looked at.
    DiskTime,
    /// The guest has answered about its disk; nothing if it could not.
    Trimming(Option<AgentMessage>),
    /// Something that makes starts faster could not be done, and why.
    Degraded(String),
    /// A pause, its end, or a capture is over.
    Moment(Result<Outcome>),
    /// The time that the guest may take for the start of this session is over.
    ExecStartTimeout(u32),
    /// The sandbox's lease may be over.
    LeaseTime,
    /// The guest has answered a client's question about its processes.
    Processes(ClientId, Result<ProcessList>),
    /// A client that watches the status gets the next one.
    StatusTime(ClientId),
    /// What a client has asked to see of the network.
    Network(ClientId, Result<NetworkStatus>),
    /// A client's change of the network is over.
    NetworkChanged(ClientId, Box<Result<NetworkChanged>>),
    /// The time that a byte stream may take to be connected, or to be delivered, is over.
    StreamTime(u32),
}

impl From<FromAgent> for Event {
    fn from(from: FromAgent) -> Self {
        Self::Agent(from)
    }
}

/// How a pause, its end or a capture ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// How long the sandbox was frozen.
    pub(super) still: Duration,
}

/// A change of the network that was made.
#[derive(Debug)]
pub(crate) struct NetworkChanged {
    /// The sandbox as it is now.
    pub(super) record: SandboxRecord,
    /// The published ports, with those that the kernel chose.
    pub(super) ports: Vec<PortMapping>,
    /// What is different, one phrase each.
    pub(super) changes: Vec<String>,
    pub(super) status: NetworkStatus,
}

/// What a client said.
#[derive(Debug)]
pub(crate) enum ClientEvent {
    /// Its first message.
    Request(ClientRequest),
    /// A control message of its session.
    Message(ClientMessage),
    /// Bytes for its session's input.
    Input { bytes: Vec<u8>, eof: bool },
    /// It has read output.
    Credit { channel: Channel, bytes: u32 },
    /// It is gone, or broke the protocol.
    Gone,
}

/// The queue's length: enough that readers rarely wait, short enough that memory stays flat.
pub(crate) const QUEUE_EVENTS: usize = 64;

/// Makes the queue.
pub(crate) fn queue() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(QUEUE_EVENTS)
}
