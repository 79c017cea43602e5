//! From a sandbox's specification and its image's configuration to a process.

pub(crate) mod interpreters;
pub(crate) mod process;
mod secret_env;
