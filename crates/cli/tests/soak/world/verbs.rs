//! What is done to one sandbox or snapshot of the world, and what must hold after it.

use std::fs;

use super::{Sandbox, Snapshot, Status, World, status_of};

impl World {
    pub(super) fn write(&mut self, index: usize) {
        self.wake(index);
        self.stamp += 1;
        let (stamp, count) = (self.stamp, 1 + self.dice.below(60) as u64);
        let sync = if self.dice.once_in(2) { "sync" } else { "lazy" };
        let question = format!("write {stamp:x} {count:x} {sync}");
        let answer = self.ask(index, &question);
        self.expect(answer == "written", index, &answer);
        self.sandboxes[index].model.write(stamp, count);
        self.done("writes");
    }

    pub(super) fn compare(&mut self, index: usize) {
        self.wake(index);
        let shown = self.ask(index, "show");
        let checked = self.sandboxes[index].model.check(&shown);
        if let Err(wrong) = checked {
            let logs = self.coffer.run(["logs", &self.sandboxes[index].id]);
            self.expect(false, index, &format!("{wrong}; {}", logs.text()));
        }
        self.done("comparisons");
    }

    /// Makes it run.
    pub(super) fn wake(&mut self, index: usize) {
        match self.sandboxes[index].status {
            Status::Running => return,
            Status::Paused => self.ok_on(&["unpause"], index),
            Status::Still => self.ok_on(&["start"], index),
        };
        self.sandboxes[index].status = Status::Running;
    }

    pub(super) fn pause(&mut self, index: usize) {
        self.ok_on(&["pause"], index);
        self.sandboxes[index].status = Status::Paused;
        self.done("pauses");
    }

    pub(super) fn fork(&mut self, source: usize, count: usize) -> Vec<usize> {
        let ids = self.ok_on(&["fork", "--count", &count.to_string()], source);
        let ids: Vec<_> = ids.lines().map(str::to_owned).collect();
        self.expect(ids.len() == count, source, "not as many forks");
        let model = self.sandboxes[source].model.clone();
        ids.into_iter()
            .map(|id| {
                self.done("forks");
                self.add(id, Status::Running, model.clone())
            })
            .collect()
    }

    pub(super) fn snapshot(&mut self, source: usize, full: bool) {
        let kind = if full { "--full" } else { "--disk" };
        let id = self.ok_on(&["snapshot", "create", kind], source);
        self.done(if full {
            "full snapshots"
        } else {
            "disk snapshots"
        });
        let Sandbox {
            id: sandbox, model, ..
        } = &self.sandboxes[source];
        self.snapshots.push(Snapshot {
            id,
            sandbox: sandbox.clone(),
            full,
            model: if full { model.clone() } else { model.of_disk() },
        });
    }

    pub(super) fn fork_snapshot(&mut self, chosen: usize) -> usize {
        let Snapshot {
            id, full, model, ..
        } = &self.snapshots[chosen];
        let (id, full, model) = (id.clone(), *full, model.clone());
        let fork = self.ok(&["fork", &id]);
        self.done("forks of snapshots");
        self.add(fork, status_of(full), model)
    }

    /// Restores a snapshot whose sandbox is ended or removed first.
    pub(super) fn restore(&mut self, chosen: usize) -> usize {
        let Snapshot {
            id,
            sandbox,
            full,
            model,
        } = &self.snapshots[chosen];
        let (id, sandbox, full, model) = (id.clone(), sandbox.clone(), *full, model.clone());
        let there = self.sandboxes.iter().position(|one| one.id == sandbox);
        if let Some(index) = there {
            if self.sandboxes[index].status != Status::Still {
                let refused = self.run(&["restore", &id]);
                self.expect(refused.code == 1, index, "a live sandbox was restored");
            }
            self.remove(index);
        }
        let restored = self.ok(&["restore", &id]);
        self.done("restores");
        let index = self.add(sandbox.clone(), status_of(full), model);
        self.expect(restored == sandbox, index, "restored as another");
        index
    }

    /// Out of the store as a file and back.
    pub(super) fn move_snapshot(&mut self) {
        let id = self.snapshots.last().unwrap().id.clone();
        let file = self.coffer.home().join("moved");
        let path = file.to_str().unwrap().to_owned();
        self.ok(&["snapshot", "verify", &id]);
        self.ok(&["snapshot", "export", "-q", "-o", &path, &id]);
        self.ok(&["snapshot", "rm", &id]);
        self.ok(&["snapshot", "import", "-q", &path]);
        fs::remove_file(file).unwrap();
        self.done("exports and imports");
    }

    pub(super) fn remove(&mut self, index: usize) {
        let sandbox = self.sandboxes.remove(index);
        self.ok(&["rm", "-f", &sandbox.id]);
    }
}
