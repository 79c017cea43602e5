//! Cases of pools: a plain one, and one whose standbys have run the very command.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::{
    bundle::DEBIAN,
    measure,
    outcome::{Outcome, outcome},
    store::Bench,
};
use crate::process;

/// Standbys of a pool.
const POOL_SIZE: u64 = 3;

/// The commands that are run from pools.
pub(super) const TRUE: &[&str] = &["/bin/true"];
pub(super) const PYTHON: &[&str] = &["/usr/bin/python3", "-c", "print(1)"];

impl Bench<'_> {
    /// How long does a command take that claims a standby of a pool made with `flags`?
    pub(super) fn pool(
        &self,
        name: &'static str,
        flags: &[&str],
        command: &[&str],
    ) -> Result<Outcome> {
        let mut ours = vec!["run", "--rm", DEBIAN, "--"];
        ours.extend(command);
        let pair = self.with_pool(flags, || {
            measure::pair(
                self.runs,
                || {
                    self.wait_for_pool()?;
                    Ok(self.coffer(&ours))
                },
                || self.runsc(command),
            )
        })?;
        let (target, note) = if command == TRUE {
            let peer = "vm0 publishes 22 ms for a parked machine, on hardware";
            ("plain at most 1.5 times warmed, at most 60 ms", peer)
        } else {
            ("not slower than runsc", "")
        };
        Ok(Outcome {
            note: note.to_owned(),
            ..outcome(name, pair, "runsc ptrace", target)
        })
    }

    fn with_pool<T>(&self, flags: &[&str], work: impl FnOnce() -> Result<T>) -> Result<T> {
        let size = POOL_SIZE.to_string();
        let mut args = vec!["pool", "create", "--name", "bench", "--size", &size];
        args.extend(flags);
        args.push(DEBIAN);
        process::capture(&mut self.coffer(&args))?;
        let result = work();
        process::capture(&mut self.coffer(&["pool", "rm", "bench"]))?;
        result
    }

    /// A claimed standby is replaced in the background; what is measured is a full pool.
    fn wait_for_pool(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        loop {
            let text = process::capture(&mut self.coffer(&["pool", "list", "--json"]))?;
            let pools: Value = serde_json::from_str(&text)?;
            if pools[0]["ready"].as_u64() == Some(POOL_SIZE) {
                return Ok(());
            }
            anyhow::ensure!(
                begin.elapsed() < LIMIT,
                "The pool was not full in {LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
