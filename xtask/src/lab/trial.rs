//! The lab's own test: a sandbox by KVM is booted, changed and forked in the lab.
//!
//! Called by `lab --check`, and again and again by `soak`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cofferdam_testkit::image::busybox_of;
use serde::{Deserialize, Serialize};

use crate::{
    packages,
    workspace::{self, Profile},
};

/// `$1` is the program, `$2` an image's archive, `$3` a file to write.
const SCRIPT: &str = r#"
echo BEGIN
"$1" load -q -i "$2"
"$1" run -d --backend qemu-kvm --name parent lab:test sleep 1d >/dev/null
"$1" inspect parent | grep '^    "backend": "qemu-kvm",'
"$1" exec parent sh -c 'echo written >/file'
"$1" fork -n child parent >/dev/null
"$1" exec child sh -c 'cat /file; kill -9 $$' || echo "status $?"
"$1" inspect child | grep '"status"'
"$1" rm -f parent child
"$1" ps -aq
echo >"$3"
exit 3
"#;

/// What the script prints after `BEGIN`.
const EXPECTED: &[&str] = &[
    "Loaded image: lab:test",
    r#"    "backend": "qemu-kvm","#,
    "written",
    "status 137",
    r#"    "status": "running","#,
    "parent",
    "child",
];

/// How the script ends.
const STATUS: i32 = 3;

/// For all of it: it takes 25 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(400);

/// Status of `timeout` when the limit has passed. Source: timeout(1).
const TIMED_OUT: i32 = 124;

/// What `coffer` says when the guest of its host check ran for too long.
const STARVED: &str = "a guest made no progress for";

/// How a trial ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Outcome {
    /// As it should.
    Passed,
    /// The lab made no end within the limit.
    Stopped,
    /// The lab got so little of a busy host's processors that `coffer` took its KVM for a broken
    /// one. This says nothing about QEMU.
    Starved,
    /// The lab's kernel or a command in it failed.
    Failed,
}

/// One trial.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) outcome: Outcome,
    /// Wall time.
    pub(crate) time: Duration,
    /// All that the lab said.
    pub(crate) output: String,
}

/// Runs the lab once, on the QEMU of this version.
///
/// # Errors
/// When the lab cannot be started. A lab that fails is an outcome.
pub(crate) fn run(qemu: &str) -> Result<Trial> {
    let directory = workspace::target().join(format!("lab/trial-{}", std::process::id()));
    fs::create_dir_all(&directory)
        .with_context(|| format!("Could not make `{}`", directory.display()))?;
    let result = in_directory(qemu, &directory);
    let removed = fs::remove_dir_all(&directory)
        .with_context(|| format!("Could not remove `{}`", directory.display()));
    let trial = result?;
    removed.map(|()| trial)
}

fn in_directory(qemu: &str, directory: &Path) -> Result<Trial> {
    let busybox = packages::busybox(&workspace::target().join("packages"))?;
    let image = directory.join("image.tar");
    fs::write(&image, busybox_of(&fs::read(busybox)?).archive("lab:test"))?;
    let touched = directory.join("touched");
    let begin = Instant::now();
    let output = Command::new("timeout")
        .args(["--foreground", &LIMIT.as_secs().to_string()])
        .arg(env::current_exe().context("This program has no path")?)
        .args(["lab", "--qemu", qemu, "--", "sh", "-ec", SCRIPT, "sh"])
        .args([program(), image, touched.clone()].map(OsString::from))
        .stdin(Stdio::null())
        .output()
        .context("Could not start the lab")?;
    let mut trial = Trial {
        outcome: outcome(&output),
        time: begin.elapsed(),
        output: said(&output),
    };
    if touched.exists() {
        trial.outcome = Outcome::Failed;
        trial.output.push_str("The lab wrote to the host's files\n");
    }
    Ok(trial)
}

/// The program under test.
fn program() -> PathBuf {
    let built = || Profile::Release.dir().join("coffer");
    env::var_os("COFFER_PROGRAM").map_or_else(built, PathBuf::from)
}

fn outcome(output: &Output) -> Outcome {
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.split_once("BEGIN\n").map_or("", |(_, answer)| answer);
    match output.status.code() {
        Some(TIMED_OUT) => Outcome::Stopped,
        Some(STATUS) if answer.lines().eq(EXPECTED.iter().copied()) => Outcome::Passed,
        _ if answer.contains(STARVED) => Outcome::Starved,
        _ => Outcome::Failed,
    }
}

fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(code: i32, stdout: &str) -> Output {
        Output {
            status: std::process::ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: Vec::new(),
        }
    }

    #[test]
    fn only_the_whole_answer_with_its_status_passes() {
        let whole = format!("Downloading x\nBEGIN\n{}\n", EXPECTED.join("\n"));
        assert_eq!(outcome(&ended(3, &whole)), Outcome::Passed);
        assert_eq!(outcome(&ended(0, &whole)), Outcome::Failed);
        let short = whole.replace("child\n", "");
        assert_eq!(outcome(&ended(3, &short)), Outcome::Failed);
        assert_eq!(outcome(&ended(3, "")), Outcome::Failed);
    }

    #[test]
    fn a_lab_without_processor_time_is_told_apart() {
        let text = "BEGIN\nLoaded image: lab:test\nerror: `qemu-kvm` cannot be used: KVM \
                    (`kvm_amd`) is present, but cannot run a stock 64-bit kernel: a guest made no \
                    progress for 30 ms on its way to long mode\n";
        assert_eq!(outcome(&ended(125, text)), Outcome::Starved);
    }

    #[test]
    fn a_lab_without_an_end_has_stopped() {
        assert_eq!(outcome(&ended(124, "BEGIN\n")), Outcome::Stopped);
    }
}
