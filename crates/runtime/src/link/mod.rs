//! The host's side of the agent protocol: frames, the handshake of a start, limits.
//!
//! This part knows neither the store nor the supervisor. A caller gives it a machine's channel and
//! a [`GuestSetup`], and gets frames and answers.

mod agent;
mod clock;
mod handshake;
mod hook;
mod outgoing;
mod setup;
pub(crate) mod trim;

pub(crate) use self::{
    agent::{AgentLink, FromAgent, OwnedFrame, refused},
    clock::Clock,
    handshake::{adopt, resume_workload, start_workload},
    outgoing::{Outgoing, SendError, outgoing, write_all},
    setup::{GuestSetup, workload_limits},
};

#[cfg(test)]
pub(crate) use self::outgoing::Waiting;
