//! `coffer template`: the real program, real guests. Each test has a store of its own, since
//! templates are all of a store's sandboxes'.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::fs;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    copies::damage,
    image::busybox,
    sandboxes::until,
};
use serde_json::Value;

/// Where a sandbox's machine came from, as `run --verbose` tells it.
fn origin(coffer: &Coffer, args: &[&str]) -> String {
    let run = ["--timings", "run", "--rm"].iter().chain(args);
    let done = coffer.run(run);
    assert_eq!(done.code, 0, "{done:?}");
    let stage = done.stderr.lines().find(|line| line.ends_with("template"));
    let stage = stage.unwrap_or_else(|| panic!("{done:?}"));
    let words: Vec<_> = stage.split_whitespace().collect();
    words[words.len() - 2..].join(" ")
}

/// The templates that hold an image, newest first.
fn of_images(coffer: &Coffer) -> Vec<Value> {
    let all = coffer.json(["template", "list", "--json"]);
    let all = all.as_array().unwrap().clone();
    all.into_iter()
        .filter(|info| info["kind"] != "base")
        .collect()
}

fn build(coffer: &Coffer, args: &[&str]) -> String {
    coffer.ok(["template", "build"].iter().chain(args))
}

#[test]
fn a_template_is_built_listed_started_from_and_removed() {
    let coffer = Coffer::private();
    assert_eq!(coffer.ok(["template", "list", "-q"]), "");
    let key = build(&coffer, &[BUSYBOX]);
    assert_eq!(key.len(), 64, "{key}");
    assert_eq!(origin(&coffer, &[BUSYBOX, "true"]), "image template");
    let ids = coffer.ok(["template", "list", "-q", "--no-trunc"]);
    assert!(ids.lines().any(|line| line == key), "{ids}");
    let table = coffer.ok(["template", "ls"]);
    let row = table
        .lines()
        .find(|line| line.starts_with(&key[..12]))
        .unwrap();
    for word in ["image", BUSYBOX, "512M"] {
        assert!(row.contains(word), "{row}");
    }
    let infos = of_images(&coffer);
    assert_eq!(infos.len(), 1, "{infos:?}");
    assert_eq!(
        (&infos[0]["key"], &infos[0]["kind"]),
        (&key.clone().into(), &"image".into())
    );
    assert_eq!(
        (&infos[0]["vcpus"], &infos[0]["memory_bytes"]),
        (&2.into(), &(512_u64 << 20).into())
    );
    assert_eq!(coffer.ok(["template", "rm", &key[..12]]), key);
    assert!(of_images(&coffer).is_empty());
    coffer.refused(&["template", "rm", &key], &["no template", "hint: "]);
}

#[test]
fn what_the_first_starts_touch_is_recorded_for_those_that_follow() {
    let coffer = Coffer::private();
    let key = build(&coffer, &[BUSYBOX]);
    let dir = coffer.home().join("templates").join(key);
    let path = dir.join("working-set.json");
    let recorded = || -> Option<(u64, u64)> {
        let record: Value = serde_json::from_slice(&fs::read(&path).ok()?).unwrap();
        let bytes = |range: &Value| range[1].as_u64().unwrap() - range[0].as_u64().unwrap();
        let touched = record["ranges"].as_array().unwrap().iter().map(bytes).sum();
        Some((record["starts"].as_u64().unwrap(), touched))
    };
    assert_eq!(recorded(), None);
    let is_recorded = |start| {
        until("the record", || {
            recorded().is_some_and(|(starts, _)| starts == start)
        });
    };
    // One that goes on, ones that go, one that stays, and one too many.
    let sleeper = coffer.sleeper();
    is_recorded(1);
    let gone: &[&str] = &["run", "--rm", BUSYBOX, "true"];
    let kept: &[&str] = &["run", BUSYBOX, "true"];
    for (start, run) in [(2, gone), (3, kept), (4, gone)] {
        coffer.ok(run);
        is_recorded(start);
    }
    drop(sleeper);
    coffer.ok(gone);
    is_recorded(4);
    let (_, touched) = recorded().unwrap();
    // A guest with a kernel in it that runs, but not nearly all of its memory.
    assert!((4 << 20..128 << 20).contains(&touched), "{touched}");
    // What is no record harms no start, and is replaced by one.
    fs::write(&path, "[1, 2").unwrap();
    assert_eq!(origin(&coffer, &[BUSYBOX, "true"]), "image template");
    until("a new record", || {
        fs::read(&path).is_ok_and(|text| text.starts_with(b"{"))
    });
}

#[test]
fn a_working_set_that_cannot_be_read_or_recorded_is_told_by_the_sandbox() {
    let coffer = Coffer::private();
    let key = build(&coffer, &[BUSYBOX]);
    // A directory in its place can neither be read nor replaced by a file.
    let path = coffer.home().join("templates").join(key);
    fs::create_dir(path.join("working-set.json")).unwrap();
    let reasons = |name: &str| coffer.inspect(name)["degraded"].to_string();
    let is_told = |name: &str| {
        let reasons = reasons(name);
        let words = [
            "All of the template's memory is read ahead: ",
            "No working set was recorded: ",
        ];
        words.iter().all(|word| reasons.contains(word))
    };
    coffer.ok(["run", "--name", "short", BUSYBOX, "true"]);
    assert!(is_told("short"), "{}", reasons("short"));
    let long = coffer.sleeper();
    until("the reasons", || is_told(&long.id));
}

#[test]
fn what_warm_ups_wrote_is_there_and_what_they_read_needs_no_disk() {
    let coffer = Coffer::empty();
    // Content that does not compress and has no holes.
    let content: Vec<u8> = (0..4_u32 << 20)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let archive = busybox().file("big", 0o644, &content).archive("big:test");
    assert_eq!(coffer.run_with_input(["load"], &archive).code, 0);
    // Reads of the root's disk, the first: the fourth field of its line; kernel
    // Documentation/admin-guide/iostats.rst. The other is read when its file system likes.
    let script = "reads() { awk '$3 == \"vda\" {print $4}' /proc/diskstats; }; \
                  awk --help > /dev/null 2>&1; reads > /dev/null; \
                  before=$(reads); cat /big > /dev/null; echo $(($(reads) - before))";
    let reads = || {
        coffer
            .ok(["run", "--rm", "big:test", "sh", "-c", script])
            .parse::<u64>()
            .unwrap()
    };
    build(&coffer, &["big:test"]);
    assert!(reads() > 10);
    build(
        &coffer,
        &[
            "--exec",
            "cat /big > /dev/null",
            "--exec",
            "echo first > /kept",
            "--exec",
            "cat /kept /kept > /more",
            "big:test",
        ],
    );
    assert_eq!(reads(), 0);
    assert_eq!(
        coffer.ok(["run", "--rm", "big:test", "cat", "/kept", "/more"]),
        "first\nfirst\nfirst"
    );
    let commands = of_images(&coffer)[0]["commands"].to_string();
    assert!(
        commands.contains("cat /big") && commands.contains("/more"),
        "{commands}"
    );
}

#[test]
fn a_command_behind_the_image_is_a_warm_up_too() {
    let coffer = Coffer::private();
    build(&coffer, &[BUSYBOX, "sh", "-c", "echo warm > /warm"]);
    assert_eq!(coffer.ok(["run", "--rm", BUSYBOX, "cat", "/warm"]), "warm");
    // Sandboxes share the template and nothing else.
    coffer.ok([
        "run",
        "--rm",
        BUSYBOX,
        "sh",
        "-c",
        "echo mine > /warm; sync",
    ]);
    assert_eq!(coffer.ok(["run", "--rm", BUSYBOX, "cat", "/warm"]), "warm");
}

#[test]
fn a_warm_up_that_fails_is_an_error_with_its_output_and_makes_nothing() {
    let coffer = Coffer::private();
    let exec = "echo the reason is here >&2; exit 3";
    let args = [
        "template", "build", "--exec", "true", "--exec", exec, BUSYBOX,
    ];
    coffer.refused(&args, &["the reason is here", "ended with 3"]);
    coffer.refused(
        &["template", "build", BUSYBOX, "no-such-program"],
        &["no-such-program"],
    );
    assert!(of_images(&coffer).is_empty());
    // Nor does a failure take the place of what is there.
    let key = build(&coffer, &["--exec", "echo kept > /kept", BUSYBOX]);
    coffer.refused(&args, &["ended with 3"]);
    assert_eq!(of_images(&coffer)[0]["key"], key);
    assert_eq!(coffer.ok(["run", "--rm", BUSYBOX, "cat", "/kept"]), "kept");
    let left = coffer.entries("templates");
    assert!(left.iter().all(|name| name.len() == 64), "{left:?}");
}

/// A workload that is ready once it knows something that no other start would.
const SERVER: &str = "head -c 16 /dev/urandom | md5sum > /dev/shm/born; echo is; echo ready; \
                      while ! test -e /end; do sleep 0.05; done; exit 8";

#[test]
fn a_template_with_its_workload_running_starts_many_with_their_own_identity() {
    let coffer = Coffer::private();
    let command = [BUSYBOX, "sh", "-c", SERVER];
    let key = build(&coffer, &[&["--wait-for", "ready"][..], &command].concat());
    let infos = of_images(&coffer);
    assert_eq!(
        (&infos[0]["key"], &infos[0]["kind"]),
        (&key.into(), &"workload".into())
    );
    let (one, other) = (coffer.detached(&command), coffer.detached(&command));
    let born = one.sh("cat /dev/shm/born");
    assert_eq!(other.sh("cat /dev/shm/born"), born);
    assert_ne!(
        one.sh("cat /etc/machine-id"),
        other.sh("cat /etc/machine-id")
    );
    for sandbox in [&one, &other] {
        assert_eq!(sandbox.sh("hostname"), &sandbox.id[..12]);
        assert_eq!(sandbox.sh("cat /etc/hostname"), &sandbox.id[..12]);
    }
    let draw = "head -c 16 /dev/urandom | md5sum";
    assert_ne!(one.sh(draw), other.sh(draw));
    // Each goes its own way to its end.
    one.send(&["touch", "/end"]);
    assert_eq!(coffer.ok(["wait", &one.id]), "8");
    assert_eq!(other.status(), "running");
    // Another command is another workload.
    let another = coffer.detached(&["-e", "OTHER=1", BUSYBOX, "sh", "-c", SERVER]);
    until("its start", || !coffer.ok(["logs", &another.id]).is_empty());
    assert_ne!(another.sh("cat /dev/shm/born"), born);
    // From its disk it starts anew.
    coffer.ok(["restart", "-t", "0", &other.id]);
    until("its start", || {
        other.sh("cat /dev/shm/born 2>/dev/null; true").len() == born.len()
    });
    assert_ne!(other.sh("cat /dev/shm/born"), born);
}

#[test]
fn a_workload_that_ends_before_it_is_ready_is_an_error_with_its_output() {
    let coffer = Coffer::private();
    let ends = [
        "template",
        "build",
        "--wait-for",
        "ready",
        BUSYBOX,
        "sh",
        "-c",
        "echo no port is free; exit 5",
    ];
    coffer.refused(&ends, &["ended with 5", "no port is free"]);
    coffer.refused(
        &["template", "build", "--wait-for", "", BUSYBOX, "true"],
        &["to wait for"],
    );
    let missing = [
        "template",
        "build",
        "--wait-for",
        "ready",
        BUSYBOX,
        "no-such-program",
    ];
    coffer.refused(&missing, &["no-such-program"]);
    assert!(of_images(&coffer).is_empty());
}

#[test]
fn what_is_not_a_templates_is_refused() {
    let coffer = Coffer::private();
    for flags in [
        &["--rm"][..],
        &["--name", "x"],
        &["--hostname", "x"],
        &["-i"],
        &["-t"],
    ] {
        let args = [&["template", "build"], flags, &[BUSYBOX]].concat();
        coffer.refused(&args, &["hint: "]);
    }
    let tmpfs = ["template", "build", "--tmpfs", "/scratch", BUSYBOX];
    coffer.refused(&tmpfs, &["tmpfs", "hint: "]);
    let missing = ["template", "build", "--pull", "never", "no-such-image"];
    coffer.refused(&missing, &["no-such-image"]);
    assert!(of_images(&coffer).is_empty());
}

#[test]
fn a_template_that_is_built_again_takes_the_place_of_the_old_one() {
    let coffer = Coffer::private();
    let first = build(&coffer, &["--exec", "echo 1 > /version", BUSYBOX]);
    let old = coffer.detached(&[BUSYBOX, "sleep", "1000000"]);
    let second = build(&coffer, &["--exec", "echo 2 > /version", BUSYBOX]);
    assert_eq!(first, second);
    assert_eq!(of_images(&coffer).len(), 1);
    assert_eq!(coffer.ok(["run", "--rm", BUSYBOX, "cat", "/version"]), "2");
    // Who came from the old one has it still.
    assert_eq!(old.sh("cat /version"), "1");
    assert_eq!(old.fork(&[]).sh("cat /version"), "1");
}

#[test]
fn another_shape_is_another_template() {
    let coffer = Coffer::private();
    let plain = build(&coffer, &["--exec", "echo plain > /dev/shm/shape", BUSYBOX]);
    let shapes = [&["--memory", "256m"][..], &["--cpus", "1"]];
    let mut keys = vec![plain];
    for shape in shapes {
        let run = [shape, &[BUSYBOX, "test", "!", "-e", "/dev/shm/shape"]].concat();
        // Before there is one of this shape, it starts without an image's.
        assert_eq!(origin(&coffer, &run), "base template", "{shape:?}");
        let exec = ["--exec", "echo other > /dev/shm/shape", BUSYBOX];
        keys.push(build(&coffer, &[shape, &exec].concat()));
        let run = [shape, &[BUSYBOX, "grep", "other", "/dev/shm/shape"]].concat();
        assert_eq!(origin(&coffer, &run), "image template", "{shape:?}");
    }
    let found = of_images(&coffer);
    let mut found: Vec<_> = found
        .iter()
        .map(|info| info["key"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    keys.sort_unstable();
    assert_eq!(found, keys);
    assert_eq!(
        coffer.ok(["run", "--rm", BUSYBOX, "cat", "/dev/shm/shape"]),
        "plain"
    );
}

#[test]
fn a_read_only_root_comes_from_the_template_of_all_others() {
    let coffer = Coffer::private();
    build(&coffer, &["--exec", "echo warm > /warm", BUSYBOX]);
    let look =
        "cat /warm; touch /x 2> /dev/null || echo refused; touch /t/x /dev/shm/x && echo mine";
    let seen = "warm\nrefused\nmine";
    let run = [
        "run",
        "--timings",
        "--name",
        "sealed",
        "--read-only",
        "--tmpfs",
        "/t",
    ];
    let ran = coffer.run(run.iter().chain(&[BUSYBOX, "sh", "-c", look]));
    assert_eq!((ran.code, ran.text().as_str()), (0, seen), "{ran:?}");
    let from = |line: &str| line.ends_with("image template");
    assert!(ran.stderr.lines().any(from), "{ran:?}");
    // Its disk is the same at the next start, and it is as little its own.
    assert_eq!(coffer.ok(["start", "-a", "sealed"]), seen);
    let live = coffer.detached(&["--read-only", "--tmpfs", "/t", BUSYBOX, "sleep", "1000000"]);
    assert_eq!(live.fork(&[]).sh(look), seen);
    assert_eq!(of_images(&coffer).len(), 1);
    // The others can write.
    let write = "touch /x && cat /warm";
    assert_eq!(
        coffer.ok(["run", "--rm", BUSYBOX, "sh", "-c", write]),
        "warm"
    );
}

#[test]
fn a_held_workload_has_the_root_that_it_was_built_with() {
    let coffer = Coffer::private();
    let script = "touch /x 2> /dev/null || echo refused; echo ready; sleep 1000000";
    let workload = [BUSYBOX, "sh", "-c", script];
    let args = ["--read-only", "--wait-for", "ready"];
    build(&coffer, &[&args[..], &workload].concat());
    let held = coffer.detached(&[&["--read-only"][..], &workload].concat());
    held.sh("! touch /y 2> /dev/null");
    assert_eq!(held.inspect()["degraded"], Value::Null);
    let other = coffer.detached(&workload);
    assert_eq!(other.sh("touch /y && echo written"), "written");
}

#[test]
fn sandboxes_outlive_their_template() {
    let coffer = Coffer::private();
    build(&coffer, &["--exec", "seq 50000 > /dev/shm/kept", BUSYBOX]);
    let sandbox = coffer.detached(&[BUSYBOX, "sleep", "1000000"]);
    let removed = coffer.json(["template", "rm", "--json", BUSYBOX]);
    assert_eq!(removed["removed"].as_array().unwrap().len(), 1);
    for base in coffer.ok(["template", "list", "-q", "--no-trunc"]).lines() {
        coffer.ok(["template", "rm", base]);
    }
    assert_eq!(coffer.entries("templates"), [""; 0]);
    // Pages that nobody has touched since come from the file that has no name any more.
    let sum = "md5sum < /dev/shm/kept";
    let seen = sandbox.sh(sum);
    assert_eq!(sandbox.sh("seq 50000 | md5sum"), seen);
    let fork = sandbox.fork(&[]);
    assert_eq!(fork.sh(sum), seen);
    coffer.ok(["pause", &sandbox.id]);
    coffer.ok(["unpause", &sandbox.id]);
    coffer.ok(["restart", "-t", "0", &sandbox.id]);
    assert_eq!(sandbox.status(), "running");
}

#[test]
fn rm_removes_by_key_and_by_image_and_names_what_is_not_there() {
    let coffer = Coffer::private();
    let one = build(&coffer, &[BUSYBOX]);
    let other = build(&coffer, &["-m", "256m", BUSYBOX]);
    coffer.refused(&["template", "rm", ""], &["no template"]);
    coffer.refused(&["template", "rm", "../templates"], &["no template"]);
    let done = coffer.run(["template", "rm", "no-such-template", &one]);
    assert_eq!((done.code, done.text()), (1, one), "{done:?}");
    assert_eq!(coffer.ok(["template", "rm", BUSYBOX]), other);
    coffer.refused(&["template", "rm", BUSYBOX], &["no template"]);
    for base in coffer.ok(["template", "list", "-q", "--no-trunc"]).lines() {
        coffer.ok(["template", "rm", base]);
    }
    let left = fs::read_dir(coffer.home().join("templates")).unwrap();
    let locks: Vec<_> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".lock"))
        .collect();
    assert_eq!(locks, [""; 0]);
}

#[test]
fn a_damaged_template_is_not_used_and_another_is_made() {
    let coffer = Coffer::private();
    let key = build(&coffer, &["--exec", "echo marked > /mark", BUSYBOX]);
    let dir = coffer.home().join("templates").join(&key);
    let look = [BUSYBOX, "sh", "-c", "test ! -e /mark"];
    let cut = |by: i64| {
        let file = fs::File::options()
            .write(true)
            .open(dir.join("memory"))
            .unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.checked_add_signed(by).unwrap())
            .unwrap();
    };
    let harms: [(&str, &dyn Fn()); 6] = [
        ("the first byte of the state", &|| {
            damage(&dir.join("state"), 0);
        }),
        ("a later byte of the state", &|| {
            damage(&dir.join("state"), 9000);
        }),
        ("a memory cut short", &|| cut(-4096)),
        ("a memory too long", &|| cut(1)),
        ("no memory", &|| {
            fs::remove_file(dir.join("memory")).unwrap();
        }),
        ("a manifest of text", &|| {
            fs::write(dir.join("manifest.json"), "?").unwrap();
        }),
    ];
    for (what, harm) in harms {
        let mark = build(&coffer, &["--exec", "echo marked > /mark", BUSYBOX]);
        assert_eq!(mark, key);
        harm();
        assert_eq!(origin(&coffer, &look), "base template", "{what}");
        // One without the mark comes in its place, in the background.
        until("a new template", || !of_images(&coffer).is_empty());
        assert_eq!(origin(&coffer, &look), "image template", "{what}");
    }
}
