//! The host's side of the agent protocol: frames, the handshake of a start, limits.
//!
//! This part knows neither the store nor the supervisor. A caller gives it a machine's channel and
//! a [`GuestSetup`], and gets frames and answers.

mod agent;
mod clock;
mod handshake;
mod hook;
mod setup;

pub(crate) use self::{
    agent::{AgentLink, FromAgent, OwnedFrame, refused, write_all},
    clock::Clock,
    handshake::{adopt, resume_workload, start_workload},
    setup::{GuestSetup, workload_limits},
};
