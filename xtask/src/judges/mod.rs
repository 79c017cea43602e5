//! `judges`: programs that others wrote use the network of sandboxes, beyond the suite's.
//!
//! The suite has the short ones (`crates/cli/tests/e2e_judges`). Here are those that need a large
//! image, programs on the host or minutes. Each judge makes what it needs on the loopback of this
//! machine and leaves nothing.
//!
//! | file | holds |
//! |---|---|
//! | `host` | the program under test, its store, and the image |
//! | `sandbox` | a sandbox of one judge |
//! | `indexes` | `pip install` and `npm install` |
//! | `browser` | Chromium of the host, with nginx in a sandbox |
//! | `git` | clone and push over ssh |
//! | `kernel_tcp` | the stack alone against the kernel's TCP, 1 GiB each way with losses |
//! | `postgres` | PostgreSQL with SCRAM |
//! | `server` | a server on the host's loopback |
//! | `websocket` | WebSockets from and to a sandbox |

mod browser;
mod git;
mod host;
mod indexes;
mod kernel_tcp;
mod postgres;
mod sandbox;
mod server;
mod websocket;

use std::{ffi::OsString, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{args::Args, packages};
use host::Host;

/// Packages of the host: they make the image, and judge from outside.
const PACKAGES: &[&str] = &[
    "chromium",
    "git",
    "mmdebstrap",
    "openssh-client",
    "postgresql-client",
    "python3",
    "python3-websockets",
];

/// One judge. It returns a few words about what it saw.
struct Judge {
    name: &'static str,
    run: fn(&Host) -> Result<String>,
}

/// All of them, in the order in which they run.
const JUDGES: &[Judge] = &[
    Judge {
        name: "pip",
        run: indexes::pip,
    },
    Judge {
        name: "npm",
        run: indexes::npm,
    },
    Judge {
        name: "git-ssh",
        run: git::ssh,
    },
    Judge {
        name: "postgresql",
        run: postgres::scram,
    },
    Judge {
        name: "websocket",
        run: websocket::both_ways,
    },
    Judge {
        name: "chromium",
        run: browser::chromium,
    },
    Judge {
        name: "kernel-tcp",
        run: kernel_tcp::lossy,
    },
];

/// Runs the verb: every judge, or with `--only NAME` one of them.
///
/// # Errors
/// When what the judges need cannot be had, when no judge has the name, or when a judge fails. A
/// judge that fails does not keep the others from running.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse_with(args, &[], &["--only"])?;
    let chosen = choose(args.value("--only"))?;
    packages::ensure("the judges", PACKAGES)?;
    let host = Host::new()?;
    let mut failed = 0;
    for judge in &chosen {
        let begin = Instant::now();
        let result = (judge.run)(&host);
        let seconds = begin.elapsed().as_secs();
        match result {
            Ok(seen) => println!("passed {}: {seen} ({seconds} s)", judge.name),
            Err(error) => {
                failed += 1;
                println!("failed {}: {error:#} ({seconds} s)", judge.name);
            }
        }
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    if failed > 0 {
        bail!("{failed} judges failed");
    }
    Ok(())
}

fn choose(only: Option<&str>) -> Result<Vec<&'static Judge>> {
    let Some(name) = only else {
        return Ok(JUDGES.iter().collect());
    };
    let found = JUDGES.iter().find(|judge| judge.name == name);
    let found = found.with_context(|| {
        let names: Vec<_> = JUDGES.iter().map(|judge| judge.name).collect();
        format!("There is no judge `{name}`; there are {}", names.join(", "))
    })?;
    Ok(vec![found])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_found_by_its_name_and_another_name_is_an_error() {
        assert_eq!(choose(None).unwrap().len(), JUDGES.len());
        assert_eq!(choose(Some("npm")).unwrap()[0].name, "npm");
        let error = choose(Some("nmp")).err().unwrap().to_string();
        assert!(error.starts_with("There is no judge `nmp`; there are pip, npm"));
    }
}
