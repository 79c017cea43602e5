//! `coffer snapshot`, without its exports: the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::fs;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    moments::{Snapshot, damage, journal},
    sandboxes::until,
};

/// A name that no test before this one has left in the store that tests share.
fn name(of: &str) -> String {
    format!("{of}-{}", std::process::id())
}

/// A sandbox that has run to its end and has a file.
fn stopped(coffer: &Coffer) -> Sleeper<'_> {
    let sandbox = coffer.script("echo kept > /kept");
    coffer.ok(["wait", &sandbox.id]);
    sandbox
}

#[test]
fn a_snapshot_of_a_running_sandbox_has_its_memory_and_disturbs_nothing() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("i=0; while :; do i=$((i+1)); echo $i; /bin/true; done");
    let lines = || coffer.ok(["logs", &sandbox.id]).lines().count();
    until("output", || lines() > 3);
    let snapshots: Vec<_> = (0..3)
        .map(|_| Snapshot::of(&coffer, &sandbox.id, &[]))
        .collect();
    for snapshot in &snapshots {
        let info = snapshot.inspect();
        assert_eq!(info["kind"], "full");
        assert!(info["pause_us"].as_u64().unwrap() > 0, "{info}");
        for file in ["memory", "state", "upper.ext4", "manifest.json"] {
            assert!(snapshot.file(file).is_file(), "{file}");
        }
    }
    assert_eq!(sandbox.status(), "running");
    let before = lines();
    until("more output", || lines() > before);
    let counted = coffer.ok(["logs", &sandbox.id]);
    let numbers: Vec<usize> = counted.lines().map(|line| line.parse().unwrap()).collect();
    let all: Vec<usize> = (1..=numbers.len()).collect();
    assert_eq!(numbers, all);
}

#[test]
fn a_snapshot_of_a_disk_alone_has_all_that_was_written_before_it() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    // Not synced by the guest.
    sandbox.sh("seq 30000 > /numbers; echo small > /small");
    let sum = sandbox.sh("md5sum /numbers");
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    sandbox.sh("echo later > /later; rm /small");
    assert_eq!(snapshot.inspect()["kind"], "disk");
    assert!(!snapshot.file("memory").exists() && !snapshot.file("state").exists());
    let fork = snapshot.fork(&[]);
    assert_eq!(fork.status(), "created");
    coffer.ok(["start", &fork.id]);
    assert_eq!(fork.sh("md5sum /numbers"), sum);
    assert_eq!(fork.sh("cat /small"), "small");
    assert_ne!(fork.exec(&["test", "-e", "/later"]).code, 0);
    // The disk that stood still for the moment takes writes again.
    assert_eq!(
        sandbox.sh("echo more >> /later; sync; cat /later"),
        "later\nmore"
    );
}

#[test]
fn a_stopped_sandbox_has_only_its_disk_to_give() {
    let coffer = Coffer::shared();
    let sandbox = stopped(&coffer);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let info = snapshot.inspect();
    assert_eq!(
        (&info["kind"], &info["pause_us"]),
        (&"disk".into(), &serde_json::Value::Null)
    );
    coffer.refused(
        &["snapshot", "create", "--full", &sandbox.id],
        &["is stopped", "`--disk`"],
    );
    let disk = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    assert_eq!(disk.inspect()["kind"], "disk");
    coffer.ok(["rm", &sandbox.id]);
    let fork = snapshot.fork(&[]);
    assert_eq!(coffer.run(["start", "-a", &fork.id]).code, 0);
}

#[test]
fn a_paused_sandbox_has_its_memory_to_give_and_stays_paused() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    sandbox.sh("echo cached > /dev/shm/cached");
    coffer.ok(["pause", &sandbox.id]);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &["--full"]);
    assert_eq!(snapshot.inspect()["kind"], "full");
    assert_eq!(sandbox.status(), "paused");
    // What it has in memory may not be on its disk.
    let create = ["snapshot", "create", "--disk", &sandbox.id];
    coffer.refused(&create, &["is paused", "hint: "]);
    assert_eq!(snapshot.fork(&[]).sh("cat /dev/shm/cached"), "cached");
}

#[test]
fn a_sandbox_that_never_ran_or_failed_has_nothing_to_give() {
    let coffer = Coffer::private();
    let created = coffer.keep(coffer.ok(["create", BUSYBOX, "true"]));
    coffer.refused(&["snapshot", "create", &created.id], &["is created"]);
    coffer.refused(
        &["snapshot", "create", "--disk", &created.id],
        &["is created"],
    );
    let failed = coffer.keep(coffer.ok(["create", BUSYBOX, "no-such-program"]));
    assert_ne!(coffer.run(["start", &failed.id]).code, 0);
    coffer.refused(
        &["snapshot", "create", &failed.id],
        &["is failed", "hint: "],
    );
    coffer.refused(&["snapshot", "create", "no-such-sandbox"], &["no sandbox"]);
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
}

#[test]
fn names_of_snapshots_are_unique_and_free_again_after_a_removal() {
    let coffer = Coffer::shared();
    let sandbox = stopped(&coffer);
    let name = name("unique");
    let first = Snapshot::of(&coffer, &sandbox.id, &["--name", &name]);
    let again = ["snapshot", "create", "--name", &name, &sandbox.id];
    coffer.refused(&again, &["is taken", "coffer snapshot rm"]);
    for bad in ["a/b", "", "-x", "a b", &"x".repeat(300)] {
        let name = format!("--name={bad}");
        coffer.refused(
            &["snapshot", "create", &name, &sandbox.id],
            &["not a snapshot name"],
        );
    }
    let unnamed = Snapshot::of(&coffer, &sandbox.id, &[]);
    assert!(unnamed.inspect()["name"].is_null());
    for by in [name.as_str(), &first.id, &first.id[..12]] {
        assert_eq!(
            coffer.json(["snapshot", "inspect", by])[0]["id"],
            first.id,
            "{by}"
        );
    }
    assert_eq!(coffer.ok(["snapshot", "rm", &name]), name);
    coffer.refused(&["snapshot", "rm", &name], &["no snapshot"]);
    let second = Snapshot::of(&coffer, &sandbox.id, &["-n", &name]);
    assert_eq!(second.inspect()["name"], name);
}

#[test]
fn a_list_tells_of_each_in_rows_ids_and_json() {
    let coffer = Coffer::private();
    assert_eq!(coffer.ok(["snapshot", "list", "-q"]), "");
    assert_eq!(
        coffer.json(["snapshot", "list", "--json"]),
        serde_json::json!([])
    );
    let sandbox = coffer.detached(&["--name", "source", BUSYBOX, "sleep", "1000000"]);
    let full = Snapshot::of(&coffer, &sandbox.id, &["--name", "all"]);
    let disk = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    // The newest comes first.
    assert_eq!(
        coffer.ok(["snapshot", "ls", "-q"]),
        format!("{}\n{}", &disk.id[..12], &full.id[..12])
    );
    let whole = coffer.ok(["snapshot", "list", "-q", "--no-trunc"]);
    assert_eq!(whole, format!("{}\n{}", disk.id, full.id));
    let table = coffer.ok(["snapshot", "list"]);
    let rows: Vec<_> = table.lines().collect();
    assert!(rows[0].starts_with("SNAPSHOT ID"), "{table}");
    for (row, words) in [
        (rows[1], [&disk.id[..12], "disk", "source"]),
        (rows[2], [&full.id[..12], "all", "full"]),
    ] {
        assert!(
            words.iter().all(|word| row.contains(word)) && row.contains(BUSYBOX),
            "{table}"
        );
    }
    let json = coffer.json(["snapshot", "list", "--json"]);
    assert_eq!(json[0]["id"], disk.id);
    assert_eq!(json[1]["name"], "all");
    assert_eq!(json[1]["sandbox"], "source");
    assert!(
        json[1]["disk_bytes"].as_u64() > json[0]["disk_bytes"].as_u64(),
        "{json}"
    );
}

#[test]
fn create_and_inspect_tell_all_as_json() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let name = name("told");
    let made = coffer.json(["snapshot", "create", "--json", "--name", &name, &sandbox.id]);
    let snapshot = Snapshot::keep(&coffer, made["id"].as_str().unwrap().to_owned());
    assert_eq!(made, snapshot.inspect());
    assert_eq!(made["sandbox_id"], sandbox.id);
    assert_eq!(made["image"], BUSYBOX);
    let files = made["manifest"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    let both = coffer.run(["snapshot", "inspect", &name, "no-such-snapshot"]);
    assert_eq!(both.code, 1, "{both:?}");
    assert!(both.stderr.contains("no-such-snapshot"), "{both:?}");
    let found: serde_json::Value = serde_json::from_str(&both.text()).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1);
}

#[test]
fn verify_finds_a_changed_byte_in_each_file() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let sound = Snapshot::of(&coffer, &sandbox.id, &[]);
    for file in ["memory", "state", "upper.ext4"] {
        let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
        let path = snapshot.file(file);
        let length = fs::metadata(&path).unwrap().len();
        for at in [0, length / 3, length - 1] {
            damage(&path, at);
            let verify = ["snapshot", "verify", &snapshot.id];
            coffer.refused(&verify, &[&format!("`{file}`"), "changed"]);
            damage(&path, at);
            coffer.ok(verify);
        }
        damage(&path, length / 2);
        let many = coffer.run(["snapshot", "verify", &snapshot.id, &sound.id]);
        assert_eq!((many.code, many.text()), (1, sound.id.clone()), "{many:?}");
        let json = coffer.run(["snapshot", "verify", "--json", &snapshot.id, &sound.id]);
        let json: serde_json::Value = serde_json::from_str(&json.text()).unwrap();
        assert_eq!(json["verified"], serde_json::json!([sound.id]));
    }
}

#[test]
fn damaged_device_state_is_never_run() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let path = snapshot.file("state");
    let length = fs::metadata(&path).unwrap().len();
    for at in [0, 200, length / 2, length - 1] {
        damage(&path, at);
        let name = name("never");
        coffer.refused(&["fork", "-n", &name, &snapshot.id], &["damaged"]);
        until("its end", || coffer.run(["inspect", &name]).code == 1);
        damage(&path, at);
    }
    assert_eq!(snapshot.fork(&[]).status(), "running");
}

#[test]
fn a_snapshot_with_a_file_cut_or_gone_or_without_manifest_is_refused_and_removed() {
    let coffer = Coffer::private();
    let sandbox = coffer.sleeper();
    type Harm = fn(&Snapshot<'_>);
    let harms: [(&str, Harm); 6] = [
        ("`memory`", |snapshot| {
            let file = fs::File::options()
                .write(true)
                .open(snapshot.file("memory"))
                .unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
        ("`upper.ext4`", |snapshot| {
            let file = fs::File::options()
                .write(true)
                .open(snapshot.file("upper.ext4"))
                .unwrap();
            file.set_len(file.metadata().unwrap().len() + 1).unwrap();
        }),
        ("`state`", |snapshot| {
            fs::remove_file(snapshot.file("state")).unwrap();
        }),
        ("no manifest", |snapshot| {
            fs::remove_file(snapshot.file("manifest.json")).unwrap();
        }),
        ("no manifest", |snapshot| {
            fs::write(snapshot.file("manifest.json"), "{").unwrap();
        }),
        ("form 99", |snapshot| {
            let text = fs::read_to_string(snapshot.file("manifest.json")).unwrap();
            let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            manifest["format"] = 99.into();
            fs::write(snapshot.file("manifest.json"), manifest.to_string()).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
        harm(&snapshot);
        let inspected = coffer.run(["snapshot", "inspect", &snapshot.id]);
        assert_eq!(
            (inspected.code, inspected.text().as_str()),
            (1, "[]"),
            "{inspected:?}"
        );
        assert!(inspected.stderr.contains(what), "{inspected:?}");
        for verb in [
            &["snapshot", "verify"][..],
            &["snapshot", "export", "-o", "/dev/null"],
            &["restore"],
            &["fork"],
        ] {
            coffer.refused(&[verb, &[snapshot.id.as_str()]].concat(), &[what]);
        }
        assert_eq!(coffer.ok(["snapshot", "list", "-q"]), "");
        coffer.ok(["snapshot", "rm", &snapshot.id]);
        assert_eq!(coffer.entries("snapshots"), [""; 0]);
    }
    assert_eq!(coffer.ok(["ps", "-aq"]).lines().count(), 1);
}

#[test]
fn forks_outlive_their_snapshot_and_can_be_forked_and_captured() {
    let coffer = Coffer::shared();
    let parent = coffer.sleeper();
    parent.sh("seq 1000 > /dev/shm/kept");
    let snapshot = Snapshot::of(&coffer, &parent.id, &[]);
    let fork = snapshot.fork(&[]);
    assert_eq!(fork.inspect()["forked_from"]["snapshot"], snapshot.id);
    coffer.ok(["rm", "-f", &parent.id]);
    assert_eq!(coffer.ok(["snapshot", "rm", &snapshot.id]), snapshot.id);
    coffer.refused(&["fork", &snapshot.id], &["no sandbox and no snapshot"]);
    assert_eq!(fork.status(), "running");
    let sum = fork.sh("md5sum /dev/shm/kept");
    let second = Snapshot::of(&coffer, &fork.id, &[]);
    coffer.ok(["snapshot", "verify", &second.id]);
    let grandchildren = [fork.fork(&[]), second.fork(&[])];
    coffer.ok(["rm", "-f", &fork.id]);
    coffer.ok(["snapshot", "rm", &second.id]);
    for grandchild in &grandchildren {
        assert_eq!(grandchild.sh("md5sum /dev/shm/kept"), sum);
        coffer.ok(["pause", &grandchild.id]);
        coffer.ok(["unpause", &grandchild.id]);
        coffer.ok(["restart", "-t", "0", &grandchild.id]);
        assert_eq!(grandchild.status(), "running");
    }
}

#[test]
fn rm_removes_each_and_names_those_that_are_not_there() {
    let coffer = Coffer::private();
    let sandbox = stopped(&coffer);
    let take = || coffer.ok(["snapshot", "create", &sandbox.id]);
    let (one, other, third) = (take(), take(), take());
    let done = coffer.run(["snapshot", "rm", &one, "no-such-snapshot", &other]);
    assert_eq!(
        (done.code, done.text()),
        (1, format!("{one}\n{other}")),
        "{done:?}"
    );
    assert!(done.stderr.contains("no-such-snapshot"), "{done:?}");
    let json = coffer.json(["snapshot", "rm", "--json", &third]);
    assert_eq!(json["removed"], serde_json::json!([third]));
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
}

#[test]
fn prune_keeps_what_has_a_name_and_asks_first() {
    let coffer = Coffer::private();
    let sandbox = stopped(&coffer);
    let take = |args: &[&str]| coffer.ok([&["snapshot", "create"], args, &[&sandbox.id]].concat());
    let (named, unnamed) = (take(&["--name", "kept"]), take(&[]));
    // Nobody can be asked.
    coffer.refused(&["snapshot", "prune"], &["`--force`"]);
    assert_eq!(coffer.entries("snapshots").len(), 2);
    let said = coffer.ok(["snapshot", "prune", "--force"]);
    assert!(said.contains(&unnamed) && !said.contains(&named), "{said}");
    assert_eq!(coffer.entries("snapshots"), [named.as_str()]);
    assert_eq!(
        coffer.json(["snapshot", "prune", "-f", "--json"])["removed"],
        serde_json::json!([])
    );
    let all = coffer.json(["snapshot", "prune", "--all", "--force", "--json"]);
    assert_eq!(all["removed"], serde_json::json!([named]));
    assert!(all["freed_bytes"].as_u64().unwrap() > 0, "{all}");
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
}

#[test]
fn an_image_that_a_snapshot_needs_is_kept() {
    let coffer = Coffer::private();
    let sandbox = stopped(&coffer);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &["--name", "needs"]);
    coffer.ok(["rm", &sandbox.id]);
    coffer.refused(&["rmi", BUSYBOX], &["`needs`", "snapshot"]);
    coffer.ok(["prune", "--all", "--force"]);
    let fork = snapshot.fork(&[]);
    coffer.ok(["start", "-a", &fork.id]);
    coffer.ok(["rm", &fork.id]);
    coffer.ok(["snapshot", "rm", "needs"]);
    coffer.ok(["rmi", BUSYBOX]);
}

#[test]
fn a_snapshot_outlives_its_sandbox() {
    let coffer = Coffer::shared();
    let sandbox = coffer.script("while :; do echo x >> /dev/shm/steps; /bin/true; done");
    until("steps", || journal(&sandbox, "/dev/shm/steps").len() > 3);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.ok(["rm", "-f", &sandbox.id]);
    coffer.ok(["snapshot", "verify", &snapshot.id]);
    let forks = [snapshot.fork(&[]), snapshot.fork(&[])];
    for fork in &forks {
        let steps = journal(fork, "/dev/shm/steps").len();
        assert!(steps > 3);
        until("more steps", || {
            journal(fork, "/dev/shm/steps").len() > steps
        });
    }
}

#[test]
fn flags_that_contradict_each_other_are_a_usage_error() {
    let coffer = Coffer::shared();
    let done = coffer.run(["snapshot", "create", "--full", "--disk", "x"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert_eq!(coffer.run(["snapshot", "create"]).code, 1);
    assert_eq!(coffer.run(["snapshot"]).code, 1);
}
