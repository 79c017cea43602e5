//! The agent in a real machine. Each test boots one of its own and asks it many things.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stderr, reason = "a failed test shows its console")]

mod ahead;
mod connect;
mod exec;
mod frozen;
mod guest;
mod life;
mod limits;
mod network;
mod root;
mod streams;
mod warm_up;
