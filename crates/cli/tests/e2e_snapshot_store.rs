//! Snapshots as the store keeps them: names, lists, checks and removals; the real program.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::fs;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    copies::{Snapshot, damage},
    sandboxes::unique_name,
};

/// A sandbox that has run to its end and has a file.
fn stopped(coffer: &Coffer) -> Sleeper<'_> {
    let sandbox = coffer.script("echo kept > /kept");
    coffer.ok(["wait", &sandbox.id]);
    sandbox
}

#[test]
fn names_of_snapshots_are_unique_and_free_again_after_a_removal() {
    let coffer = Coffer::shared();
    let sandbox = stopped(&coffer);
    let name = unique_name("unique");
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
    let name = unique_name("told");
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
            let words = [&format!("`{file}`"), "changed"];
            coffer.refused(&verify, &words);
            // Nor does anything begin with it, or leave with it.
            coffer.refused(&["fork", &snapshot.id], &words);
            coffer.refused(&["restore", &snapshot.id], &words);
            let nowhere = ["snapshot", "export", "-o", "/dev/null", &snapshot.id];
            coffer.refused(&nowhere, &words);
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
        let list = coffer.run(["snapshot", "list", "-q"]);
        assert_eq!((list.code, list.text().as_str()), (0, ""), "{list:?}");
        let warned = ["warning: ", what, "hint: "];
        assert!(
            warned.iter().all(|word| list.stderr.contains(word)),
            "{list:?}"
        );
        coffer.ok(["snapshot", "rm", &snapshot.id]);
        assert_eq!(coffer.entries("snapshots"), [""; 0]);
    }
    assert_eq!(coffer.ok(["ps", "-aq"]).lines().count(), 1);
}

#[test]
fn a_damaged_snapshot_keeps_its_name_and_is_pruned() {
    let coffer = Coffer::private();
    let sandbox = coffer.sleeper();
    let cut = |snapshot: &Snapshot<'_>| {
        let file = fs::File::options()
            .write(true)
            .open(snapshot.file("memory"));
        file.unwrap().set_len(4096).unwrap();
    };
    let named = Snapshot::of(&coffer, &sandbox.id, &["--name", "kept"]);
    let nameless = Snapshot::of(&coffer, &sandbox.id, &[]);
    cut(&named);
    cut(&nameless);
    let again = ["snapshot", "create", "--name", "kept", &sandbox.id];
    coffer.refused(&again, &["taken"]);
    coffer.refused(&["snapshot", "verify", "kept"], &["`memory`", "hint: "]);
    let pruned = coffer.ok(["snapshot", "prune", "-f"]);
    assert!(
        pruned.contains(&nameless.id) && !pruned.contains(&named.id),
        "{pruned}"
    );
    assert_eq!(coffer.ok(["snapshot", "rm", "kept"]), "kept");
    assert_eq!(coffer.entries("snapshots"), [""; 0]);
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
fn flags_that_contradict_each_other_are_a_usage_error() {
    let coffer = Coffer::shared();
    let done = coffer.run(["snapshot", "create", "--full", "--disk", "x"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert_eq!(coffer.run(["snapshot", "create"]).code, 1);
    assert_eq!(coffer.run(["snapshot"]).code, 1);
}
