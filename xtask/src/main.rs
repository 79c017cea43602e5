//! `cargo xtask VERB`: everything that is done to this repository by machine.
//!
//! Each verb is one module with a `run(args)`. Verbs that need Debian packages install them
//! (see [`packages`]) and say so. Invariant: nothing here is part of the shipped program.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a development tool talks to its user"
)]

mod args;
mod bench;
mod build;
mod checks;
mod ci;
mod cpio;
mod demo;
mod dist;
mod judges;
mod kernel;
mod lab;
mod packages;
mod process;
mod qemu;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::{env, ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};

/// A verb: its name, what it does, and its function.
struct Verb {
    name: &'static str,
    help: &'static str,
    run: fn(&[OsString]) -> Result<()>,
}

/// Every verb, in the order of the usage text.
const VERBS: &[Verb] = &[
    Verb {
        name: "build",
        help: "build the agent, its initramfs, the kernel and the coffer program [--release]",
        run: build::run,
    },
    Verb {
        name: "kernel",
        help: "build the guest kernel, or take it from the cache",
        run: kernel::run,
    },
    Verb {
        name: "demo",
        help: "set everything up and run a command in a sandbox",
        run: demo::run,
    },
    Verb {
        name: "test",
        help: "set everything up and run every test [-- NEXTEST ARGUMENTS]",
        run: test::run,
    },
    Verb {
        name: "bench",
        help: "measure against other systems",
        run: bench::run,
    },
    Verb {
        name: "lab",
        help: "run a command in a machine with working KVM [--qemu VERSION] -- COMMAND",
        run: lab::run,
    },
    Verb {
        name: "soak",
        help: "run the lab's test again and again [--runs N] [--qemu VERSION]",
        run: soak::run,
    },
    Verb {
        name: "judges",
        help: "let programs of others use the network of sandboxes [--only NAME]",
        run: judges::run,
    },
    Verb {
        name: "qemu",
        help: "unpack a QEMU below target/qemu and print its path: VERSION, such as 10 or 7.2",
        run: qemu::run,
    },
    Verb {
        name: "tidy",
        help: "check the rules that no lint checks",
        run: tidy::run,
    },
    Verb {
        name: "ci",
        help: "format check, lints, tidy and every test",
        run: ci::run,
    },
    Verb {
        name: "dist",
        help: "make the tarball that runs elsewhere [--check]",
        run: dist::run,
    },
];

fn main() -> ExitCode {
    match dispatch(&env::args_os().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            match error.downcast_ref::<lab::CommandFailed>() {
                Some(failed) => failed.status.into(),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        bail!("No verb was given\n{}", usage());
    };
    if name == "help" || name == "--help" || name == "-h" {
        println!("{}", usage());
        return Ok(());
    }
    match VERBS.iter().find(|verb| name == verb.name) {
        Some(verb) => (verb.run)(rest),
        None => bail!("There is no verb `{}`\n{}", name.display(), usage()),
    }
}

fn usage() -> String {
    let mut text = String::from("Usage: cargo xtask VERB\n");
    for verb in VERBS {
        text.push_str(&format!("\n  {:<7} {}", verb.name, verb.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_verb_is_named_in_the_error() {
        let error = dispatch(&["frobnicate".into()]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("There is no verb `frobnicate`")
        );
    }

    #[test]
    fn the_usage_names_every_verb() {
        let usage = usage();
        assert!(VERBS.iter().all(|verb| usage.contains(verb.name)));
    }
}
