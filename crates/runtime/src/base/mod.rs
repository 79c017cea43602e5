//! What every other part uses: errors, random bytes, sockets, child processes, the async runtime.

pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod random;
pub(crate) mod reap;
pub(crate) mod socket;
pub(crate) mod task;
