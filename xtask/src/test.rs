//! `test`: installs what the tests need, builds what they run, and runs them all.
//!
//! A second version of QEMU gets a part of the tests, before the main suite: the runner's summary
//! of the main suite ends the output.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    args::Args,
    build, checks, dist, lab, packages, process,
    qemu::Qemu,
    workspace::{self, Profile},
};

/// Packages that tests call: tools that make and judge images, a registry, and the peer that the
/// benchmarks compare with. QEMU and busybox are unpacked: to install them may remove others.
const PACKAGES: &[&str] = &[
    "curl",
    "docker-registry",
    "e2fsprogs",
    "erofs-utils",
    "iproute2",
    "mmdebstrap",
    "python3-minimal",
    "runsc",
    "skopeo",
    "umoci",
];

/// The QEMU of the main suite: the oldest that works.
const MAIN_QEMU: &str = "7.2";

/// The QEMU of [`SECOND_SUITE`].
const SECOND_QEMU: &str = "10";

/// Test programs that run on [`SECOND_QEMU`] too, by package: the backend contract, and one for
/// each thing that a machine does for a user.
const SECOND_SUITE: &[(&str, &[&str])] = &[
    ("cofferdam-qemu", &["contract"]),
    (
        "cofferdam-cli",
        &[
            "e2e_exec",
            "e2e_forks",
            "e2e_named_networks",
            "e2e_network",
            "e2e_pause",
            "e2e_pools",
            "e2e_restores",
            "e2e_run",
            "e2e_snapshots",
        ],
    ),
];

/// What [`REQUIRE`] is where no test may be skipped.
const ALL: &str = "all";

/// Whether a test may be skipped where it cannot run; `cofferdam_testkit::skip` reads it.
const REQUIRE: &str = "COFFER_REQUIRE";

/// Runs the verb: the checks, the SDK's documentation tests, the lab's test, a part of the tests on a
/// second QEMU, then all tests. What follows `--` goes to the test runner, and then nothing but the tests
/// is run, on the QEMU that `COFFER_QEMU` names if it names one.
///
/// # Errors
/// When a check or a test fails. A failed part does not keep the others from running.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse(args, &[])?;
    packages::ensure("the tests", PACKAGES)?;
    let busybox = packages::busybox(&workspace::target().join("packages"))?;
    let busybox = busybox.parent().context("busybox is in a directory")?;
    let main = main_qemu()?;
    if !args.rest.is_empty() {
        let program = build::build(Profile::Release)?;
        let suite = Suite {
            program: &program,
            busybox,
            qemu: &main,
        };
        return suite.run(&[], &args.rest);
    }
    let second = Qemu::unpacked(&SECOND_QEMU.parse()?)?;
    // Downloads come before the tests, which have a time limit. A test says what is missing.
    if let Err(error) = dist::prepare() {
        eprintln!("warning: {error:#}");
    }
    let program = build::build(Profile::Release)?;
    let checks = checks::run();
    let documentation = documentation(&program, &main);
    let suite = |qemu| Suite {
        program: &program,
        busybox,
        qemu,
    };
    // Alone, since a busy host starves it.
    let lab = lab::check(SECOND_QEMU).context("The lab's test failed");
    if let Err(error) = &lab {
        eprintln!("{error:#}");
    }
    println!("A part of the tests on QEMU {}", second.version()?);
    let part = suite(&second).run(SECOND_SUITE, &[]);
    let part = part.with_context(|| format!("Tests on QEMU {SECOND_QEMU} failed"));
    if let Err(error) = &part {
        eprintln!("{error:#}");
    }
    println!("All tests on QEMU {}", main.version()?);
    // Last, so that the runner's summary is the end of a good run's output.
    let all = suite(&main).run(&[], &[]);
    checks.and(documentation).and(lab).and(part).and(all)
}

fn documentation(program: &Path, qemu: &Qemu) -> Result<()> {
    let words = ["test", "--doc", "--package", "cofferdam", "--quiet"];
    let mut cargo = workspace::cargo(&words);
    process::run(qemu.apply(&mut cargo)?.env("COFFER_PROGRAM", program))
}

/// The QEMU that is configured, else that of the main suite.
fn main_qemu() -> Result<Qemu> {
    match Qemu::configured() {
        Some(qemu) => Ok(qemu),
        None => Qemu::unpacked(&MAIN_QEMU.parse()?),
    }
}

/// The environment of a run of tests.
#[derive(Clone, Copy, Debug)]
struct Suite<'a> {
    program: &'a Path,
    busybox: &'a Path,
    qemu: &'a Qemu,
}

impl Suite<'_> {
    /// Runs the test programs in `only`, all if it is empty, with more arguments for the runner.
    fn run(&self, only: &[(&str, &[&str])], args: &[OsString]) -> Result<()> {
        let runner = if has_nextest() {
            let mut runner = workspace::cargo(&["nextest", "run", "--workspace"]);
            runner.arg("--no-fail-fast");
            if !only.is_empty() {
                runner.args(["--filterset", &filter(only)]);
            }
            runner
        } else {
            // Without time-outs, but the same tests; building nextest takes minutes.
            println!("cargo-nextest is not installed: using `cargo test`");
            let mut runner = workspace::cargo(&["test", "--no-fail-fast"]);
            runner.args(cargo_test_arguments(only));
            runner
        };
        // Started by `nohup` or in a shell's background, all would ignore the signals that tests
        // send.
        let mut ours = Command::new("env");
        ours.arg("--default-signal")
            .arg(runner.get_program())
            .args(runner.get_args())
            .args(args)
            .current_dir(workspace::root())
            .env("COFFER_PROGRAM", self.program)
            // With a backend named, the contract fails where it cannot run.
            .env("COFFER_TEST_BACKEND", backend());
        process::prepend_path(&mut ours, self.busybox)?;
        let skips = Skips::prepare(&mut ours)?;
        let result = process::run(self.qemu.apply(&mut ours)?);
        skips.print()?;
        result
    }
}

/// What becomes of tests that cannot run here: a failure, unless `COFFER_REQUIRE` is set to
/// something else than `all`. Then they are counted.
struct Skips(Option<PathBuf>);

impl Skips {
    fn prepare(runner: &mut Command) -> Result<Self> {
        let required = env::var_os(REQUIRE).is_none_or(|what| what == ALL);
        if required {
            runner.env(REQUIRE, ALL);
            return Ok(Self(None));
        }
        let path = workspace::target().join("skips");
        std::fs::write(&path, "")
            .with_context(|| format!("Could not write `{}`", path.display()))?;
        runner.env("COFFER_SKIPS", &path);
        Ok(Self(Some(path)))
    }

    fn print(&self) -> Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        let lines = std::fs::read_to_string(path)
            .with_context(|| format!("Could not read `{}`", path.display()))?;
        // Some tests ask for a tool more than once.
        let lines: BTreeSet<&str> = lines.lines().collect();
        for line in &lines {
            println!("{line}");
        }
        println!("{} tests were skipped", lines.len());
        Ok(())
    }
}

fn backend() -> OsString {
    env::var_os("COFFER_TEST_BACKEND").unwrap_or_else(|| "qemu-tcg".into())
}

/// A filter in nextest's language. Nextest refuses a name that no test program has.
fn filter(only: &[(&str, &[&str])]) -> String {
    let programs = only.iter().flat_map(|(package, binaries)| {
        binaries
            .iter()
            .map(move |binary| format!("package({package}) & binary({binary})"))
    });
    programs.collect::<Vec<_>>().join(" | ")
}

/// The same for `cargo test`.
fn cargo_test_arguments(only: &[(&str, &[&str])]) -> Vec<String> {
    if only.is_empty() {
        return ["--workspace", "--lib", "--bins", "--tests"]
            .map(str::to_owned)
            .into();
    }
    let words = only.iter().flat_map(|(package, binaries)| {
        let binaries = binaries.iter().flat_map(|binary| ["--test", binary]);
        ["--package", package].into_iter().chain(binaries)
    });
    words.map(str::to_owned).collect()
}

fn has_nextest() -> bool {
    process::capture(Command::new("cargo").args(["nextest", "--version"])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &[(&str, &[&str])] = &[("a", &["x"]), ("b", &["y", "z"])];

    #[test]
    fn both_runners_get_the_same_test_programs() {
        let expected = "package(a) & binary(x) | package(b) & binary(y) | package(b) & binary(z)";
        assert_eq!(filter(SOME), expected);
        let expected = "--package a --test x --package b --test y --test z";
        assert_eq!(cargo_test_arguments(SOME).join(" "), expected);
    }

    #[test]
    fn every_test_program_of_the_second_suite_exists() {
        for (package, binaries) in SECOND_SUITE {
            let package = package.trim_start_matches("cofferdam-");
            let tests = workspace::root().join("crates").join(package).join("tests");
            for binary in *binaries {
                assert!(tests.join(format!("{binary}.rs")).is_file(), "{binary}");
            }
        }
    }
}
