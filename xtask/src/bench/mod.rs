//! `bench`: what users wait for, as ratios against a peer in the same run.
//!
//! Each case runs its two commands in turn, A B A B, so that a host whose speed drifts slows both;
//! medians and ratios pair by pair are reported, never single times. Output: a table, and
//! `docs/benchmarks.{md,json,svg}` with `--write`.

mod bundle;
mod cases;
mod measure;
mod moments;
mod network;
mod outcome;
mod plot;
mod pools;
mod report;
mod store;

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    args::Args,
    build, packages,
    qemu::Qemu,
    workspace::{self, Profile},
};

/// Packages of the peers and of what makes the images.
const PACKAGES: &[&str] = &["mmdebstrap", "runsc", "skopeo", "umoci"];

/// Counted runs of each command.
const RUNS: usize = 15;

/// Runs the verb.
///
/// # Errors
/// When something cannot be built or measured.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse(args, &["--network", "--write"])?;
    packages::ensure("the benchmarks", PACKAGES)?;
    let qemu = Qemu::ensure("the benchmarks")?;
    let program = build::build(Profile::Release)?;
    let dir = workspace::target().join("bench");
    let results = match args.has("--network") {
        true => cases::run_network(&program, &qemu, &dir, RUNS)?,
        false => cases::run_all(&program, &qemu, &dir, RUNS)?,
    };
    let machine = machine(&qemu)?;
    println!("\n{}", report::table(&machine, &results));
    if args.has("--write") {
        let docs = workspace::root().join("docs");
        std::fs::write(docs.join("benchmarks.md"), report::page(&machine, &results))?;
        std::fs::write(
            docs.join("benchmarks.json"),
            report::json(&machine, &results)?,
        )?;
        std::fs::write(docs.join("benchmarks.svg"), plot::svg(&results))?;
        println!("Wrote docs/benchmarks.md, .json and .svg");
    }
    Ok(())
}

/// One line about the machine: a number without it says nothing.
fn machine(qemu: &Qemu) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, n)| n.to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let qemu = qemu.version()?;
    Ok(format!(
        "{cores} × {processor}, Linux {kernel}, QEMU {qemu}"
    ))
}
