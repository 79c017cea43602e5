//! The user-space network of one sandbox: a gateway that turns a guest's frames into sockets.
//!
//! ```text
//!  guest ◄─frames─► FrameIo ─► link, wire ─► policy ─► tcp, udp, icmp ─► sockets of the host
//! ```
//!
//! The crate knows no virtual machine: frames come through [`FrameIo`]. A [`Stack`] runs on one
//! thread with one place to wait, and without traffic it never wakes up. A [`Handle`] changes,
//! reads and stops it. There is no root, no TAP device and no helper program: outbound flows are
//! sockets of this process, so the host's routes, firewalls and resolvers hold for them.
//!
//! The guest's TCP connections end here. smoltcp does that side. It wants a listening socket for
//! each destination before the SYN comes, and it searches all sockets of a set for each packet.
//! So the flow table here is our own: it keeps the guest's SYN until the host's connect has
//! succeeded, and only then makes one socket, in a set of its own, on an interface that accepts
//! every address (`any_ip`). The SYN's answer is honest, a flood of SYNs costs no buffers, and a
//! packet costs the same with one flow or a thousand. `tcp` has the details.
//!
//! No packet of a guest panics, blocks or makes memory grow past [`Limits`]: what does not fit is
//! refused or dropped, and counted in [`Stats`].
//!
//! docs/network.md has the policy's semantics.

mod capture;
mod config;
mod confine;
mod context;
mod dns;
mod error;
mod event;
mod frame;
mod icmp;
mod intercept;
mod limit;
mod link;
mod named;
mod peers;
mod policy;
mod poller;
mod publish;
mod slots;
mod stack;
mod stats;
mod switch;
mod tcp;
mod udp;
mod wire;

pub use config::{Addresses, Config, HOST_NAME, Limits, MAX_MTU, MIN_MTU, Mac, Rate, Timeouts};
pub use confine::Confine;
pub use dns::host_resolvers;
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, Events, Reporter};
pub use frame::{Fill, FrameIo, FrameStream, Input, MAX_FRAME_BYTES, PacketSocket};
pub use intercept::{Intercept, Intercepted, Secrets};
pub use named::{Directory, Member, NamedNetwork};
pub use policy::{
    Action, Cidr, Decision, Denial, Name, Policy, PolicyText, Ports, Profile, Protocol, Query,
    RESERVED, Reason, Reserved, Rule, Target, host_addresses,
};
pub use publish::{BoundPort, PublishId, PublishSpec, PublishedPort};
pub use stack::{End, Handle, Stack};
pub use stats::{FlowInfo, Stats};
