//! The network stack alone against the kernel's TCP: the long form of a test of `crates/net`.

use anyhow::{Context as _, Result, ensure};

use super::{host::Host, sandbox::output};
use crate::workspace;

/// The test, in `crates/net/tests/kernel`.
const TEST: &str = "a_twentieth_of_all_frames_is_lost_and_every_byte_arrives";

/// MiB each way.
const MEBIBYTES: &str = "1024";

/// # Errors
/// When a byte is lost or changed, or the test cannot run here.
pub(super) fn lossy(_: &Host) -> Result<String> {
    let mut cargo = workspace::cargo(&["test", "--quiet"]);
    cargo
        .args(["--package", "cofferdam-net", "--test", "kernel"])
        .args(["--", "--exact", TEST, "--nocapture"])
        .env("COFFER_KERNEL_TCP_MIB", MEBIBYTES)
        // A test that cannot run here is a failure and no pass.
        .env("COFFER_REQUIRE", "all");
    let printed = output(&mut cargo, &[]).context("The test of the stack")?;
    let seen = times(&printed);
    ensure!(seen.len() == 2, "The test moved nothing: {printed}");
    Ok(format!("one frame in twenty lost; {}", seen.join(", ")))
}

/// The lines about the two transfers.
fn times(printed: &str) -> Vec<&str> {
    let is_time = |line: &&str| line.starts_with("up: ") || line.starts_with("down: ");
    printed.lines().filter(is_time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_about_transfers_are_found() {
        let printed = "running 1 test\nup: 4 bytes in 1s\ndown: 4 bytes in 2s\n7 frames arrived\n";
        assert_eq!(times(printed), ["up: 4 bytes in 1s", "down: 4 bytes in 2s"]);
    }
}
