//! Prints what the host check finds, as JSON: `cargo run -p cofferdam-kvm-probe --example probe`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let finding = cofferdam_kvm_probe::probe_in_process();
    let Ok(json) = serde_json::to_string_pretty(&finding) else {
        return ExitCode::FAILURE;
    };
    if writeln!(io::stdout(), "{json}").is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
