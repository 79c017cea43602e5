//! A client for QEMU's machine protocol: one JSON value a line, commands answered by id, events
//! in between.
//!
//! Commands may be sent before the greeting has come and before earlier ones are answered; QEMU
//! runs them in order. A restore uses that: it costs no round trip.
//! Source: QEMU `docs/interop/qmp-spec.txt`.

mod client;
mod jobs;
mod wire;

pub(crate) use client::{MigrationStatus, Qmp};
pub(crate) use jobs::JobEnd;
