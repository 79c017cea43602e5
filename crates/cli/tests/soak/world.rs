//! The sandboxes and snapshots of a soak test, what each should hold, and what is done to them.

mod verbs;

use std::{collections::BTreeMap, fs, path::Path};

use cofferdam_testkit::{
    coffer::{Coffer, Finished},
    image,
};

use super::{
    guest_program,
    model::{Dice, Model},
    say,
};

const IMAGE: &str = "keeper:test";

/// Bounds of what is there between two cycles. Each live one is a machine of 128 MiB at most.
const MAX_SANDBOXES: usize = 4;
const MAX_SNAPSHOTS: usize = 3;

/// Most that the store may take with that: templates, images, snapshots and disks in bytes.
const MAX_STORE_BYTES: u64 = 3 << 30;

/// Steps that a failure prints.
const STEPS_SHOWN: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Running,
    Paused,
    /// Stopped, or made of a disk and never started.
    Still,
}

#[derive(Debug)]
struct Sandbox {
    id: String,
    status: Status,
    model: Model,
}

#[derive(Debug)]
struct Snapshot {
    id: String,
    /// Whose it is.
    sandbox: String,
    full: bool,
    model: Model,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    coffer: Coffer,
    seed: u64,
    dice: Dice,
    stamp: u64,
    sandboxes: Vec<Sandbox>,
    snapshots: Vec<Snapshot>,
    steps: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let coffer = Coffer::empty();
        let program = guest_program::compile(include_str!("keeper.rs"));
        let archive = image::busybox()
            .file("bin/keeper", 0o755, &program)
            .archive(IMAGE);
        assert_eq!(coffer.run_with_input(["load"], &archive).code, 0);
        Self {
            coffer,
            seed,
            dice: Dice::new(seed),
            // No stamp of another run, should one ever be found.
            stamp: (seed & 0xff_ffff) << 32,
            sandboxes: Vec::new(),
            snapshots: Vec::new(),
            steps: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// How often each thing was done.
    pub(crate) fn counts(&self) -> String {
        let counts = self.counts.iter();
        counts
            .map(|(what, count)| format!("{count} {what}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// One cycle.
    pub(crate) fn cycle(&mut self, number: u64) {
        self.steps.push(format!("cycle {number}"));
        if self.sandboxes.is_empty() {
            self.begin();
        }
        let source = self.dice.below(self.sandboxes.len());
        self.wake(source);
        self.write(source);
        if self.dice.once_in(6) {
            self.still_cycle(source);
        } else {
            if self.dice.once_in(4) {
                self.pause(source);
            }
            match self.dice.below(3) {
                0 => self.snapshot_cycle(source),
                _ => self.fork_cycle(source),
            }
        }
        self.trim();
        self.check_store();
    }

    /// Removes all and sees that nothing is left.
    pub(crate) fn end(mut self) {
        while !self.sandboxes.is_empty() {
            self.remove(0);
        }
        while let Some(snapshot) = self.snapshots.pop() {
            self.ok(&["snapshot", "rm", &snapshot.id]);
        }
        self.check_store();
    }

    fn begin(&mut self) {
        let id = self.ok(&[
            "run", "-d", "--memory", "128m", "--cpus", "1", IMAGE, "keeper",
        ]);
        self.done("runs");
        self.add(id, Status::Running, Model::new());
    }

    fn add(&mut self, id: String, status: Status, model: Model) -> usize {
        self.sandboxes.push(Sandbox { id, status, model });
        self.sandboxes.len() - 1
    }

    /// From a live sandbox: forks, used beside it.
    fn fork_cycle(&mut self, source: usize) {
        let count = 1 + self.dice.below(2);
        let forks = self.fork(source, count);
        self.wake(source);
        self.write(source);
        for &fork in &forks {
            self.compare(fork);
            self.write(fork);
        }
        self.compare(source);
        if self.dice.once_in(2) {
            let second = self.fork(forks[0], 1);
            self.write(forks[0]);
            self.compare(second[0]);
        }
        self.compare(forks[0]);
    }

    /// From a live sandbox: a snapshot, used later.
    fn snapshot_cycle(&mut self, source: usize) {
        let full = self.sandboxes[source].status == Status::Paused || !self.dice.once_in(3);
        self.snapshot(source, full);
        self.wake(source);
        self.write(source);
        if self.dice.once_in(3) {
            self.move_snapshot();
        }
        let chosen = self.dice.below(self.snapshots.len());
        if self.dice.once_in(2) {
            let fork = self.fork_snapshot(chosen);
            self.compare(source);
            self.compare(fork);
        } else {
            let restored = self.restore(chosen);
            self.compare(restored);
            self.write(restored);
            self.compare(restored);
        }
    }

    /// From a sandbox that was ended: its disk.
    fn still_cycle(&mut self, source: usize) {
        self.ok_on(&["kill"], source);
        self.done("kills");
        let model = self.sandboxes[source].model.of_disk();
        self.sandboxes[source].model = model.clone();
        self.sandboxes[source].status = Status::Still;
        let fork = if self.dice.once_in(2) {
            self.snapshot(source, false);
            self.fork_snapshot(self.snapshots.len() - 1)
        } else {
            let id = self.ok_on(&["fork"], source);
            self.done("forks of a disk");
            self.add(id, Status::Still, model)
        };
        self.wake(source);
        self.write(source);
        self.compare(fork);
        self.compare(source);
    }

    /// Keeps the numbers within their bounds. Whom it meets is chance: parents of forks too.
    fn trim(&mut self) {
        while self.sandboxes.len() > MAX_SANDBOXES {
            let doomed = self.dice.below(self.sandboxes.len());
            self.remove(doomed);
        }
        while self.snapshots.len() > MAX_SNAPSHOTS {
            let doomed = self.dice.below(self.snapshots.len());
            let snapshot = self.snapshots.remove(doomed);
            self.ok(&["snapshot", "rm", &snapshot.id]);
        }
    }

    /// The store has what it should have and nothing else.
    fn check_store(&mut self) {
        let lists = [
            ("sandboxes", self.sandboxes.len()),
            ("snapshots", self.snapshots.len()),
        ];
        for (list, count) in lists {
            let dir = self.coffer.home().join(list);
            let names = names(&dir);
            let of_ids = names.iter().filter(|name| *name != "lock").count();
            self.expect(of_ids == count, 0, &format!("{list} holds {names:?}"));
        }
        let listed = self.run(&["ps", "-aq"]).text().lines().count();
        self.expect(listed == self.sandboxes.len(), 0, "`ps` lists others");
        let bytes = allocated(self.coffer.home());
        self.expect(
            bytes < MAX_STORE_BYTES,
            0,
            &format!("the store has {bytes} bytes"),
        );
    }

    fn ask(&mut self, index: usize, question: &str) -> String {
        let id = self.sandboxes[index].id.clone();
        let mut command = vec!["exec", &id, "keeper", "ask"];
        command.extend(question.split(' '));
        self.ok(&command)
    }

    fn ok_on(&mut self, command: &[&str], index: usize) -> String {
        let id = self.sandboxes[index].id.clone();
        self.ok(&[command, &[&id]].concat())
    }

    fn ok(&mut self, command: &[&str]) -> String {
        let finished = self.run(command);
        self.expect(finished.code == 0, 0, &format!("{finished:?}"));
        finished.text()
    }

    fn run(&mut self, command: &[&str]) -> Finished {
        self.steps.push(command.join(" "));
        self.coffer.run(command)
    }

    fn done(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn expect(&self, right: bool, index: usize, wrong: &str) {
        if right {
            return;
        }
        let from = self.steps.len().saturating_sub(STEPS_SHOWN);
        for step in &self.steps[from..] {
            say(step);
        }
        let who = self.sandboxes.get(index).map_or("none", |one| &one.id);
        panic!("COFFER_SOAK_SEED={}: sandbox {who}: {wrong}", self.seed);
    }
}

fn status_of(full: bool) -> Status {
    if full { Status::Running } else { Status::Still }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Bytes on the disk of all below a directory. Files that go meanwhile count nothing.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => allocated(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
