//! A store with one live sandbox, verbs that are killed in it, and what must hold after that.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    env, fs,
    io::{self, Write as _},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    sandboxes::{is_alive, until},
};

use super::processes::{self, Victims};

pub(crate) const IMAGE: &str = BUSYBOX;

/// Points of a verb in the short form.
const POINTS: u32 = 2;

/// Directories that hold staging directories.
const STAGES: [&str; 3] = ["sandboxes", "snapshots", "templates"];

#[derive(Debug)]
pub(crate) struct Scene {
    coffer: Coffer,
    parent: String,
    /// Who is killed, and when.
    strike: RefCell<String>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = writeln!(io::stderr(), "killed: {}", self.strike.borrow());
        }
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        let coffer = Coffer::private();
        let small = ["run", "-d", "--memory", "128m", IMAGE, "sleep", "1000000"];
        let parent = coffer.ok(small);
        coffer.ok(["exec", &parent, "sh", "-c", "echo kept > /kept; sync"]);
        let scene = Self {
            coffer,
            parent,
            strike: RefCell::default(),
        };
        scene.settle();
        scene
    }

    pub(crate) const fn coffer(&self) -> &Coffer {
        &self.coffer
    }

    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }

    /// Kills `victims` at each point of `verb`, and checks with `after` and all that always holds.
    pub(crate) fn at_many_points(&self, verb: &[&str], victims: &[Victims], after: impl Fn(&Self)) {
        self.prepared(|_| (), verb, victims, after);
    }

    /// The same with something to be done before each.
    pub(crate) fn prepared(
        &self,
        before: impl Fn(&Self),
        verb: &[&str],
        victims: &[Victims],
        after: impl Fn(&Self),
    ) {
        let points = env::var("COFFER_CRASH_POINTS").map_or(POINTS, |text| text.parse().unwrap());
        before(self);
        let begin = Instant::now();
        self.coffer.ok(verb);
        let whole = begin.elapsed();
        self.check(&after);
        for victims in victims {
            for point in 0..points {
                before(self);
                let delay = whole * (2 * point + 1) / (2 * points);
                let what = verb.join(" ");
                let what = format!("{victims:?} of `{what}` after {delay:?} of {whole:?}");
                self.strike.replace(what);
                self.kill(verb, *victims, delay);
                self.check(&after);
            }
        }
    }

    fn kill(&self, verb: &[&str], victims: Victims, delay: Duration) {
        let before = processes::of_store(self.coffer.home());
        let parent = self.coffer.inspect(&self.parent)["supervisor_pid"].as_i64();
        let mut command = self.coffer.command(verb);
        let mut client = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Time, on purpose: the moment of the kill is what is tried.
        thread::sleep(delay);
        let born = processes::of_store(self.coffer.home());
        let born: Vec<i32> = born.difference(&before).copied().collect();
        match victims {
            Victims::Client => client.kill().unwrap(),
            Victims::Parent => processes::kill(i32::try_from(parent.unwrap()).unwrap()),
            Victims::Supervisors => {
                let supervisors = born.into_iter().filter(|pid| processes::supervises(*pid));
                supervisors.for_each(processes::kill);
            }
            Victims::Everything => born.into_iter().for_each(processes::kill),
        }
        client.wait().unwrap();
    }

    fn check(&self, after: &impl Fn(&Self)) {
        self.settle();
        // What works is listed, and what is listed works.
        for snapshot in self.snapshots() {
            self.coffer.ok(["snapshot", "verify", &snapshot]);
        }
        after(self);
        self.revive(&self.parent);
        let kept = self.coffer.ok(["exec", &self.parent, "cat", "/kept"]);
        assert_eq!(kept, "kept");
        self.settle();
        self.expect_nothing_else();
    }

    /// Waits until no sandbox is on its way to somewhere, and nobody is making a template.
    fn settle(&self) {
        // How many live, if none is about to change that.
        let at_rest = || {
            let all = self.coffer.json(["ps", "-a", "--json"]);
            let status = |one: &serde_json::Value| one["status"].as_str().unwrap().to_owned();
            let all: Vec<_> = all.as_array().unwrap().iter().map(status).collect();
            let is = |status: &String, any: [&str; 2]| any.contains(&status.as_str());
            let on_its_way = all
                .iter()
                .any(|status| is(status, ["starting", "stopping"]));
            let live = all
                .iter()
                .filter(|status| is(status, ["running", "paused"]));
            (!on_its_way).then(|| live.count())
        };
        until("all at rest", || {
            let before = processes::of_store(self.coffer.home());
            let supervisors = before.iter().filter(|pid| processes::supervises(**pid));
            let supervisors = supervisors.count();
            // Each has a sandbox, unless it has just removed that, and a machine; whoever else
            // there is has something to do. The last look is for one that was born during the
            // others.
            before.len() == 2 * supervisors
                && at_rest() == Some(supervisors)
                && before == processes::of_store(self.coffer.home())
        });
    }

    /// A sandbox that runs, or is started and then does.
    pub(crate) fn revive(&self, id: &str) {
        if self.coffer.status(id) != "running" {
            self.coffer.ok(["start", id]);
        }
        assert_eq!(self.coffer.ok(["exec", id, "hostname"]), id[..12]);
    }

    pub(crate) fn remove(&self, id: &str) {
        self.coffer.ok(["rm", "-f", id]);
    }

    /// Ids of all sandboxes but the first.
    pub(crate) fn others(&self) -> Vec<String> {
        let all = self.coffer.ok(["ps", "-aq", "--no-trunc"]);
        let others = all.lines().filter(|id| *id != self.parent);
        others.map(str::to_owned).collect()
    }

    pub(crate) fn remove_snapshots(&self) {
        for snapshot in self.snapshots() {
            self.coffer.ok(["snapshot", "rm", &snapshot]);
        }
    }

    /// The templates that are listed are those that are there, once nobody makes one any more.
    pub(crate) fn expect_templates(&self) {
        self.settle();
        let listed = self.coffer.ok(["template", "list", "-q", "--no-trunc"]);
        let listed: BTreeSet<_> = listed.lines().map(str::to_owned).collect();
        let there: BTreeSet<_> = self.coffer.entries("templates").into_iter().collect();
        assert_eq!(listed, there);
    }

    fn snapshots(&self) -> Vec<String> {
        let all = self.coffer.ok(["snapshot", "list", "-q", "--no-trunc"]);
        all.lines().map(str::to_owned).collect()
    }

    /// Directories and processes are those of what is listed.
    fn expect_nothing_else(&self) {
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let mut sandboxes = self.others();
        sandboxes.push(self.parent.clone());
        assert_eq!(self.coffer.entries("sandboxes"), sorted(sandboxes.clone()));
        assert_eq!(self.coffer.entries("snapshots"), sorted(self.snapshots()));
        for stage in STAGES {
            let entries = fs::read_dir(self.coffer.home().join(stage)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = names.filter(|name| is_debris(name)).collect();
            assert!(left.is_empty(), "{stage}: {left:?}");
        }
        let known: BTreeSet<i32> = sandboxes
            .iter()
            .map(|id| self.coffer.inspect(id))
            .flat_map(|info| ["supervisor_pid", "machine_pid"].map(|key| info[key].as_i64()))
            .flatten()
            .map(|pid| i32::try_from(pid).unwrap())
            .collect();
        // A sandbox that has just come up may have its image's template made.
        until("known processes alone", || {
            processes::of_store(self.coffer.home()) == known
        });
    }
}

/// Whether it is a staging directory whose maker is dead: `.tmp-`, its process id, `-` and more.
fn is_debris(name: &str) -> bool {
    let owner = name
        .strip_prefix(".tmp-")
        .and_then(|rest| rest.split('-').next());
    owner.is_some_and(|pid| !is_alive(pid.parse().unwrap()))
}
