//! Exit codes, Docker's.

use std::{ffi::OsString, process::ExitCode};

use cofferdam::{Error, ErrorKind};

use crate::output;

/// Cofferdam itself failed, in `run` and `exec`.
pub(crate) const OWN_FAILURE: u8 = 125;

/// How a command ended.
#[derive(Debug)]
pub(crate) enum ExitStatus {
    /// It did what was asked.
    Success,
    /// It failed and has already said why, item by item.
    Failure,
    /// The exit code of a workload.
    Workload(u8),
    /// It failed.
    Error(Error),
    /// It failed before a workload ran.
    RunError(Error),
}

impl ExitStatus {
    /// Says what went wrong, and with which code to exit.
    pub(crate) fn into_code(self) -> ExitCode {
        match self {
            Self::Success => ExitCode::SUCCESS,
            Self::Failure => ExitCode::FAILURE,
            Self::Workload(code) => ExitCode::from(code),
            Self::Error(error) => {
                output::error(&error);
                ExitCode::FAILURE
            }
            Self::RunError(error) => {
                output::error(&error);
                ExitCode::from(match error.kind() {
                    ErrorKind::ProgramNotFound => 127,
                    ErrorKind::ProgramNotExecutable => 126,
                    _ => OWN_FAILURE,
                })
            }
        }
    }
}

/// Prints a usage error or a help text. `run`, `create` and `exec` exit with 125, as Docker's do.
pub(crate) fn of_usage(error: &clap::Error, argv: &[OsString]) -> ExitCode {
    // Nothing can be done about a terminal that is gone.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let verb = argv
        .iter()
        .skip(1)
        .find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    let runs = verb.is_some_and(|verb| verb == "run" || verb == "create" || verb == "exec");
    ExitCode::from(if runs { OWN_FAILURE } else { 1 })
}
