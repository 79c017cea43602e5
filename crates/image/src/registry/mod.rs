//! Images from registries.
//!
//! Invariants: a credential goes to the registry's own host and to the token service that it
//! names, never along a redirect; plain HTTP only to loopback; every wait has an end; nothing
//! from the network is kept before its digest is checked.
//! *Source:* OCI distribution-spec v1.1; Docker Registry "Token Authentication Specification".

mod auth;
mod challenge;
mod client;
mod credential_files;
mod credential_helper;
mod credentials;
mod encoding;
mod hosts;
mod http;
mod pull;
mod resolve;
mod tls;
mod transfer;

use std::{fmt, path::PathBuf, time::Duration};

/// Longest silence of a registry within an answer. Registries behind slow object stores need some
/// seconds for the first byte; 30 s of nothing has always been a dead connection.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest connecting, name resolution and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How to pull. The default takes everything from the environment.
#[derive(Clone)]
pub struct PullOptions {
    /// Mirrors in the form of `COFFER_MIRRORS`: `registry=mirror`, separated by commas. Absent:
    /// that variable.
    pub mirrors: Option<String>,
    /// More certificate authorities to trust, PEM. Absent: the file `COFFER_CA_FILE` names.
    pub ca_file: Option<PathBuf>,
    /// Directory of the one `config.json` to read credentials from. Absent: all places that
    /// Docker, podman and skopeo keep them.
    pub docker_config: Option<PathBuf>,
    /// Longest silence within an answer.
    pub stall_timeout: Duration,
    /// First wait before a retry; doubles with each.
    pub retry_wait: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            mirrors: None,
            ca_file: None,
            docker_config: None,
            stall_timeout: STALL_TIMEOUT,
            retry_wait: Duration::from_millis(500),
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A mirror's address may carry a password.
        f.debug_struct("PullOptions")
            .field("ca_file", &self.ca_file)
            .field("docker_config", &self.docker_config)
            .field("stall_timeout", &self.stall_timeout)
            .finish_non_exhaustive()
    }
}
