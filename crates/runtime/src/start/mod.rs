//! From a sandbox's record to a machine whose workload runs.
//!
//! [`prepare`] takes the quickest way that [`origin`] finds and falls back to slower ones.

mod network;
mod origin;
mod prepare;
mod setup;

pub(crate) use self::{
    network::network,
    prepare::{ForTemplates, start},
    setup::guest_setup,
};
