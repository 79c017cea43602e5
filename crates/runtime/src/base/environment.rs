//! The environment of the processes that Cofferdam starts for itself.
//!
//! A supervisor lives as long as its sandbox, and others of the user can read its environment
//! (`/proc/PID/environ`). So it gets what Cofferdam reads and nothing else of its starter's: a
//! secret or a password that is in a shell's variables does not stay there.

use std::{
    env::vars_os,
    ffi::{OsStr, OsString},
};

/// Variables that Cofferdam, QEMU or the libraries below them read.
const KEPT: [&str; 12] = [
    "DOCKER_CONFIG",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
];

/// Beginnings of the names of others.
const KEPT_BEGINNINGS: [&str; 4] = ["COFFER_", "LC_", "RUST_", "XDG_"];

/// Whether a process of Cofferdam inherits the variable.
pub(crate) fn is_kept(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    KEPT.contains(&name)
        || KEPT_BEGINNINGS
            .iter()
            .any(|begins| name.starts_with(begins))
}

/// The variables of this process that another one inherits.
pub(crate) fn kept() -> impl Iterator<Item = (OsString, OsString)> {
    vars_os().filter(|(name, _)| is_kept(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_cofferdam_does_not_read_is_not_inherited() {
        for name in ["PATH", "COFFER_HOME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE"] {
            assert!(is_kept(OsStr::new(name)), "{name}");
        }
        for name in ["TOKEN", "AWS_SECRET_ACCESS_KEY", "PATHS", "MY_COFFER_X"] {
            assert!(!is_kept(OsStr::new(name)), "{name}");
        }
    }
}
