//! Starting a machine's program so that it has what it may have and ends with its parent, and
//! taking rights from threads of this process.
//!
//! Called by the backends that run a program per machine. [`spawn`] gives the program exactly the
//! descriptors it is meant to hold, no environment, no terminal, no new privileges, no core
//! dumps, and a parent-death signal. [`Launch::holes`] adds the system-call filter that a program
//! needs which maps a file that others map too; [`Launch::small_pages`] keeps it from huge pages.
//!
//! [`confine_thread`] is for the threads that read what guests and servers send.
//!
//! Invariant: what runs between fork and exec is async-signal-safe: system calls on data that was
//! laid out before the fork, no allocation, no lock.

#![allow(
    unsafe_code,
    reason = "fork, prctl and dup2 between fork and exec have no safe form"
)]

mod calls;
mod filter;
mod holes;
mod launch;
mod paths;
mod result;
mod setup;
mod spawn;
mod thread;

pub use holes::Holes;
pub use launch::Launch;
pub use spawn::{Child, spawn};
pub use thread::{ThreadRights, confine_thread};
