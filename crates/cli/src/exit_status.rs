//! Exit codes, Docker's.

use std::{ffi::OsString, process::ExitCode};

use clap::error::{ContextKind, ContextValue, ErrorKind as UsageError};
use cofferdam::{Error, ErrorKind, Result};

use crate::{
    args::{hint_for_verb, is_noun},
    output,
};

/// Cofferdam itself failed, in `run` and `exec`.
pub(crate) const OWN_FAILURE: u8 = 125;

/// The reader of our standard output went away: 128 + SIGPIPE, as a shell tells of others.
pub(crate) const BROKEN_PIPE: u8 = 141;

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

impl From<Result<()>> for ExitStatus {
    fn from(done: Result<()>) -> Self {
        done.map_or_else(Self::Error, |()| Self::Success)
    }
}

impl ExitStatus {
    /// Says what went wrong, and with which code to exit.
    pub(crate) fn into_code(self) -> ExitCode {
        match self {
            Self::Success => match output::failure() {
                None => ExitCode::SUCCESS,
                Some(reason) => {
                    output::error_line(&format!("Could not write to standard output: {reason}"));
                    ExitCode::FAILURE
                }
            },
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

/// Prints a usage error or a help text.
///
/// As in Docker, a flag that is wrong is 125 whatever the verb; no such verb, or a missing argument
/// of a verb that runs nothing, is 1.
pub(crate) fn of_usage(mut error: clap::Error, argv: &[OsString]) -> ExitCode {
    remove_dashes_tip(&mut error);
    if let Some((verb, hint)) = hint_for_verb(&error) {
        output::error_line(&format!(
            "`{verb}` is a verb of Docker that coffer does not have"
        ));
        output::note(format_args!("  hint: {hint}"));
        return ExitCode::FAILURE;
    }
    let printed = error.print();
    match usage_code(error.kind(), argv) {
        0 => {
            output::note_written(&printed);
            ExitStatus::Success.into_code()
        }
        // Nothing can be done about a standard error that is gone.
        code => ExitCode::from(code),
    }
}

/// Takes away the tip to put `--` before what looks like a flag: what follows it is the image.
fn remove_dashes_tip(error: &mut clap::Error) {
    let Some(ContextValue::StyledStrs(tips)) = error.get(ContextKind::Suggested) else {
        return;
    };
    if tips.iter().any(|tip| tip.to_string().contains("'-- ")) {
        error.remove(ContextKind::Suggested);
    }
}

fn usage_code(kind: UsageError, argv: &[OsString]) -> u8 {
    let verb = argv
        .iter()
        .skip(1)
        .find(|arg| !arg.as_encoded_bytes().starts_with(b"-") && !is_noun(arg));
    let runs = verb.is_some_and(|verb| verb == "run" || verb == "create" || verb == "exec");
    match kind {
        UsageError::DisplayHelp | UsageError::DisplayVersion => 0,
        UsageError::InvalidSubcommand
        | UsageError::MissingSubcommand
        | UsageError::DisplayHelpOnMissingArgumentOrSubcommand => 1,
        UsageError::MissingRequiredArgument if !runs => 1,
        _ => OWN_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;

    #[test]
    fn nobody_is_told_to_put_dashes_before_a_value() {
        for line in ["run --cpus -5 x", "run --nope x", "logs --since -5 x"] {
            let argv = std::iter::once("coffer").chain(line.split(' '));
            let argv: Vec<OsString> = argv.map(OsString::from).collect();
            let mut error = Cli::read(&argv).unwrap_err();
            remove_dashes_tip(&mut error);
            assert!(!error.to_string().contains("'-- "), "{error}");
        }
    }

    #[test]
    fn usage_errors_have_dockers_codes() {
        for (line, code) in [
            ("--help", 0),
            ("--version", 0),
            ("help", 0),
            ("help run", 0),
            ("help nope", 1),
            ("run --help", 0),
            ("run", 125),
            ("exec sandbox", 125),
            ("-v run --nope x", 125),
            ("run --memory many x", 125),
            ("ps --nope", 125),
            ("container run", 125),
            ("stop", 1),
            ("nope", 1),
            ("build .", 1),
        ] {
            let argv: Vec<OsString> = std::iter::once("coffer")
                .chain(line.split(' '))
                .map(OsString::from)
                .collect();
            let error = Cli::read(&argv).unwrap_err();
            assert_eq!(usage_code(error.kind(), &argv), code, "{line}");
        }
    }
}
