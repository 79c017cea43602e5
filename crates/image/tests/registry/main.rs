//! Pulls from a registry that misbehaves.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod faults;
mod logins;
mod oddities;
mod pulls;
mod scene;
#[path = "../store_support/mod.rs"]
mod store_support;
mod tls;
