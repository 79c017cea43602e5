//! Where a byte stream into the guest ends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A server in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamTarget {
    /// A TCP port of the guest's loopback: 127.0.0.1 first, then ::1 if that refuses.
    Port(u16),
    /// A Unix socket of the workload's file system, by its absolute path.
    Socket(String),
}

impl fmt::Display for StreamTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "{port}"),
            Self::Socket(path) => f.write_str(path),
        }
    }
}
