//! What tests share: the real program with a store of its own, images, and a registry that
//! misbehaves on demand.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a failure here is the test's failure"
)]

pub mod coffer;
pub mod image;
