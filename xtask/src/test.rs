//! `test`: installs what the tests need, builds what they run, and runs them all.

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::Result;

use crate::{
    args::Args,
    build, ci, packages, process,
    workspace::{self, Profile},
};

/// Packages that tests call: the emulator, tools that make and judge images, a registry, and the
/// peer that the benchmarks compare with.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "docker-registry",
    "e2fsprogs",
    "erofs-utils",
    "mmdebstrap",
    "python3-minimal",
    "qemu-system-x86",
    "runsc",
    "skopeo",
    "umoci",
];

/// Runs the verb: the checks, the SDK's documentation tests, then all other tests. What follows
/// `--` goes to the test runner, and then nothing but the tests is run.
///
/// # Errors
/// When a check or a test fails. A failed check does not keep the tests from running.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse(args, &[])?;
    packages::ensure("the tests", PACKAGES)?;
    let program = build::build(Profile::Release)?;
    if !args.rest.is_empty() {
        return tests(&program, &args.rest);
    }
    let checks = ci::checks();
    let documentation = process::run(
        workspace::cargo(&["test", "--doc", "--package", "cofferdam", "--quiet"])
            .env("COFFER_PROGRAM", &program),
    );
    // Last, so that the runner's summary is the end of a good run's output.
    let tests = tests(&program, &[]);
    checks.and(documentation).and(tests)
}

fn tests(program: &Path, args: &[OsString]) -> Result<()> {
    let words: &[&str] = if has_nextest() {
        &["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        // Without time-outs, but the same tests; building nextest takes minutes.
        println!("cargo-nextest is not installed: using `cargo test`");
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
        ]
    };
    let runner = workspace::cargo(words);
    // Started by `nohup` or in a shell's background, all would ignore the signals that tests send.
    let mut ours = Command::new("env");
    ours.arg("--default-signal")
        .arg(runner.get_program())
        .args(runner.get_args())
        .args(args)
        .current_dir(workspace::root())
        .env("COFFER_PROGRAM", program);
    process::run(&mut ours)
}

fn has_nextest() -> bool {
    process::capture(Command::new("cargo").args(["nextest", "--version"])).is_ok()
}
