//! `coffer`: sandboxes for code that you did not write, in microVMs.
//!
//! Parses, calls one function of `commands`, prints, exits. Uses the SDK only.

mod args;
mod commands;
mod destination;
mod detach_keys;
mod exit_status;
mod format;
mod go_template;
mod output;
mod progress;
mod sink;
mod staged_file;
mod streams;
mod terminal;
mod time;

use std::process::ExitCode;

use crate::{args::Cli, exit_status::ExitStatus};

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    if let Some(code) = cofferdam::run_role(&argv) {
        return ExitCode::from(code);
    }
    let cli = match Cli::read(&argv) {
        Ok(cli) => cli,
        Err(error) => return exit_status::of_usage(error, &argv),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error_line(&error.to_string());
            return ExitCode::from(exit_status::OWN_FAILURE);
        }
    };
    let status = runtime.block_on(commands::run(cli));
    // A blocking read of a terminal may still wait for a key.
    runtime.shutdown_background();
    ExitStatus::into_code(status)
}
