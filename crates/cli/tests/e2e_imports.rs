//! `coffer snapshot export` and `import`, and files that a stranger made: the real program.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    process::{Command, Stdio},
};

use cofferdam_testkit::{
    bundle::{Bundle, Part},
    coffer::{BUSYBOX, Coffer, Finished, Sleeper},
    moments::Snapshot,
    sandboxes::until,
};
use serde_json::{Value, json};

/// A full snapshot's export, of a sandbox with a file in its memory and one on its disk.
struct Export {
    sandbox: String,
    id: String,
    bytes: Vec<u8>,
}

impl Export {
    fn make(coffer: &Coffer, args: &[&str]) -> Self {
        let sandbox = coffer.sleeper();
        sandbox.sh("seq 20000 > /dev/shm/memory; seq 10000 > /disk");
        let snapshot = Snapshot::of(coffer, &sandbox.id, args);
        let exported = coffer.run(["snapshot", "export", "-q", &snapshot.id]);
        assert_eq!(exported.code, 0, "{}", exported.stderr);
        Self {
            sandbox: sandbox.id.clone(),
            id: snapshot.id.clone(),
            bytes: exported.stdout,
        }
    }

    fn bundle(&self) -> Bundle {
        Bundle::parse(&self.bytes)
    }
}

fn import(coffer: &Coffer, bytes: &[u8], args: &[&str]) -> Finished {
    coffer.run_with_input(["snapshot", "import", "-q"].iter().chain(args), bytes)
}

/// Imports what must not come in: an error with a sentence about it, and nothing left behind.
fn reject(coffer: &Coffer, bytes: &[u8], about: &str, words: &[&str]) {
    let done = import(coffer, bytes, &[]);
    assert_eq!(
        (done.code, done.text().as_str()),
        (1, ""),
        "{about}: {done:?}"
    );
    assert!(done.stderr.starts_with("error: "), "{about}: {done:?}");
    assert!(
        words.iter().all(|word| done.stderr.contains(word)),
        "{about}: {words:?}: {done:?}"
    );
    assert_eq!(coffer.entries("snapshots"), [""; 0], "{about}");
}

fn expect_content(sandbox: &Sleeper<'_>) {
    assert_eq!(
        sandbox.sh("tail -n 1 /dev/shm/memory; wc -l < /dev/shm/memory"),
        "20000\n20000"
    );
    assert_eq!(sandbox.sh("tail -n 1 /disk; wc -l < /disk"), "10000\n10000");
}

#[test]
fn a_snapshot_moves_through_a_pipe_to_another_store_and_runs_there() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let source = here.sleeper();
    source.sh("seq 20000 > /dev/shm/memory; seq 10000 > /disk");
    let snapshot = Snapshot::of(&here, &source.id, &["--name", "moved"]);
    let mut export = here
        .command(["snapshot", "export", "moved"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let imported = there
        .command(["snapshot", "import"])
        .stdin(export.stdout.take().unwrap())
        .output()
        .unwrap();
    assert_eq!(export.wait().unwrap().code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&imported.stdout).trim(),
        snapshot.id,
        "{imported:?}"
    );
    there.ok(["snapshot", "verify", "moved"]);
    let (ours, theirs) = (
        snapshot.inspect(),
        there.json(["snapshot", "inspect", "moved"]),
    );
    for field in ["id", "name", "kind", "created_ns", "pause_us", "sandbox_id"] {
        assert_eq!(ours[field], theirs[0][field], "{field}");
    }
    assert_eq!(ours["manifest"]["files"], theirs[0]["manifest"]["files"]);
    drop((snapshot, source));
    let fork = there.keep(there.ok(["fork", "moved"]));
    expect_content(&fork);
    assert_eq!(fork.sh("hostname"), &fork.id[..12]);
    let restored = there.keep(there.ok(["restore", "moved"]));
    assert_eq!(json!(restored.id), ours["sandbox_id"]);
    expect_content(&restored);
}

#[test]
fn a_snapshot_moves_in_a_file_and_takes_another_name() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("moved.cofferdam");
    let path = path.to_str().unwrap();
    fs::write(path, "what was there before").unwrap();
    let source = here.sleeper();
    let snapshot = Snapshot::of(&here, &source.id, &[]);
    assert_eq!(
        here.ok(["snapshot", "export", "-o", path, &snapshot.id]),
        ""
    );
    // Nothing else appears beside it.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let first = there.json(["snapshot", "import", "--json", "--name", "mine", path]);
    assert_eq!(
        (&first["id"], &first["name"]),
        (&json!(snapshot.id), &json!("mine"))
    );
    there.refused(&["snapshot", "import", path], &["in the store already"]);
    there.ok(["snapshot", "rm", "mine"]);
    assert_eq!(there.ok(["snapshot", "import", "-i", path]), snapshot.id);
    there.refused(
        &["snapshot", "import", "/no/such/file"],
        &["`/no/such/file`"],
    );
}

#[test]
fn a_disk_moves_and_is_started_from() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let sandbox = here.script("cat /kept; echo run >> /kept");
    here.ok(["wait", &sandbox.id]);
    let snapshot = Snapshot::of(&here, &sandbox.id, &[]);
    let exported = here.run(["snapshot", "export", &snapshot.id]);
    let done = import(&there, &exported.stdout, &["--name", "disk"]);
    assert_eq!(
        (done.code, done.text()),
        (0, snapshot.id.clone()),
        "{done:?}"
    );
    let fork = there.keep(there.ok(["fork", "disk"]));
    assert_eq!(there.ok(["start", "-a", &fork.id]), "run");
}

#[test]
fn a_name_that_is_taken_there_is_refused_and_another_can_be_given() {
    let coffer = Coffer::private();
    let sandbox = coffer.script("true");
    coffer.ok(["wait", &sandbox.id]);
    let first = Snapshot::of(&coffer, &sandbox.id, &["--name", "taken"]);
    let bytes = coffer.run(["snapshot", "export", "taken"]).stdout;
    coffer.ok(["snapshot", "rm", "taken"]);
    drop(first);
    let other = Snapshot::of(&coffer, &sandbox.id, &["--name", "taken"]);
    let refused = import(&coffer, &bytes, &[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("`taken` is taken"), "{refused:?}");
    for name in ["a/b", "..", ""] {
        let bad = import(&coffer, &bytes, &["--name", name]);
        assert_eq!(bad.code, 1, "{bad:?}");
    }
    assert_eq!(coffer.entries("snapshots"), [other.id.as_str()]);
    let named = import(&coffer, &bytes, &["--name", "other"]);
    assert_eq!(named.code, 0, "{named:?}");
}

#[test]
fn a_store_without_the_image_says_how_to_get_it() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::empty();
    let pull = format!("coffer pull {BUSYBOX}");
    reject(
        &there,
        &export.bytes,
        "no image",
        &["image", BUSYBOX, "hint: ", &pull],
    );
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = export.bundle();
    let mut cuts = vec![0, 1, 7, 8, 12, 15, 16, 20, 24];
    let mut end = bundle.head.len();
    for part in &bundle.parts {
        let begin = end;
        end += 8 + part.payload.len() + 32;
        cuts.extend([begin, begin + 8, end - 32, end - 1]);
    }
    assert_eq!(end, export.bytes.len());
    // Of the many parts of data some.
    cuts.dedup();
    let step = (cuts.len() / 40).max(1);
    let tail = cuts.len() - 6;
    let some = cuts
        .iter()
        .enumerate()
        .filter(|(index, _)| *index < 12 || *index > tail || index % step == 0);
    for (_, cut) in some {
        reject(&there, &export.bytes[..*cut], &format!("cut at {cut}"), &[]);
    }
    let mut longer = export.bytes.clone();
    longer.push(0);
    reject(&there, &longer, "one byte more", &[]);
    assert_eq!(import(&there, &export.bytes, &[]).code, 0);
}

#[test]
fn a_turned_bit_in_any_kind_of_part_is_found() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = export.bundle();
    let mut places: Vec<usize> = (0..bundle.head.len()).collect();
    let mut seen = Vec::new();
    let mut begin = bundle.head.len();
    for part in &bundle.parts {
        let payload = begin + 8;
        let seal = payload + part.payload.len();
        // The first of each kind is as good as any.
        if !seen.contains(&part.kind) {
            seen.push(part.kind);
            places.extend([begin, begin + 4, begin + 7, seal, seal + 31]);
            if !part.payload.is_empty() {
                places.extend([payload, payload + part.payload.len() / 2, seal - 1]);
            }
        }
        begin = seal + 32;
    }
    assert_eq!(seen.len(), 5);
    for place in places {
        for bit in [0, 7] {
            let mut bytes = export.bytes.clone();
            bytes[place] ^= 1 << bit;
            reject(&there, &bytes, &format!("bit {bit} of byte {place}"), &[]);
        }
    }
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let coffer = Coffer::private();
    for (about, bytes) in [
        ("nothing", &b""[..]),
        ("text", b"hello\n"),
        ("zeroes", &[0; 100_000]),
        (
            "an archive",
            &cofferdam_testkit::image::busybox_archive("x:y"),
        ),
    ] {
        reject(&coffer, bytes, about, &[]);
    }
    coffer.refused(&["snapshot", "import", "/"], &[]);
}

#[test]
fn a_newer_form_is_refused_by_its_number() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let mut bundle = export.bundle();
    let mut manifest = bundle.manifest();
    manifest["format"] = 2.into();
    // A newer form may have fields that this version does not know.
    manifest["new"] = json!({"in": "version 2"});
    let bytes = bundle.with_manifest(&manifest).bytes();
    reject(&there, &bytes, "manifest", &["form 2", "newer Cofferdam"]);
    bundle.head[8] = 2;
    reject(&there, &bundle.bytes(), "bundle", &["version 2"]);
}

#[test]
fn a_machine_that_this_host_cannot_continue_is_refused_with_what_goes_everywhere() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let export = Export::make(&here, &[]);
    let bundle = export.bundle();
    let manifest = bundle.manifest();
    let ours = manifest["compatibility"].as_str().unwrap();
    let others = [
        json!(ours.replace("max", "Skylake")),
        json!("qemu-kvm 99"),
        json!(""),
        Value::Null,
    ];
    for other in others {
        let mut manifest = manifest.clone();
        manifest["compatibility"] = other.clone();
        let bytes = bundle.with_manifest(&manifest).bytes();
        reject(
            &there,
            &bytes,
            &other.to_string(),
            &["cannot continue", "`--disk`"],
        );
    }
    for backend in ["nope", "qemu-kvm\u{1b}[31m"] {
        let mut manifest = manifest.clone();
        manifest["backend"] = backend.into();
        let bytes = bundle.with_manifest(&manifest).bytes();
        reject(&there, &bytes, backend, &["backend"]);
    }
}

/// The pointers to all values in a manifest that hold no others.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, value)| (index.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    if children.is_empty() {
        found.push(at.to_owned());
    }
    for (key, child) in children {
        leaves(child, &format!("{at}/{key}"), found);
    }
}

#[test]
fn a_field_of_another_type_is_refused_wherever_it_is() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = export.bundle();
    let manifest = bundle.manifest();
    let mut all = Vec::new();
    leaves(&manifest, "", &mut all);
    assert!(all.len() > 50, "{all:?}");
    for at in all {
        let mut manifest = manifest.clone();
        *manifest.pointer_mut(&at).unwrap() = json!({"another": ["type"]});
        reject(&there, &bundle.with_manifest(&manifest).bytes(), &at, &[]);
    }
    for at in [
        "",
        "/sandbox",
        "/sandbox/spec",
        "/sandbox/image",
        "/files/0",
    ] {
        let mut manifest = manifest.clone();
        manifest.pointer_mut(at).unwrap()["unknown"] = 1.into();
        reject(
            &there,
            &bundle.with_manifest(&manifest).bytes(),
            &format!("{at}/unknown"),
            &[],
        );
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_wherever_it_is() {
    let name = format!("values-{}", std::process::id());
    let export = Export::make(&Coffer::shared(), &["--name", &name]);
    let there = Coffer::private();
    let bundle = export.bundle();
    let manifest = bundle.manifest();
    let zero = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("/format", json!(-1)),
        ("/format", json!(0)),
        ("/format", json!(u64::MAX)),
        ("/id", json!("../../../../tmp/x")),
        ("/id", json!("")),
        ("/id", json!(export.id.to_uppercase())),
        ("/name", json!("../x")),
        ("/name", json!("a/b")),
        ("/name", json!("")),
        ("/name", json!("x".repeat(300))),
        ("/name", json!("a\nb")),
        ("/created_ns", json!(-1)),
        ("/kind", json!("disk")),
        ("/kind", json!("other")),
        ("/pause_us", json!(0.5)),
        ("/sandbox/version", json!(2)),
        ("/sandbox/id", json!("../x")),
        ("/sandbox/name", json!("../x")),
        ("/sandbox/name", json!("")),
        ("/sandbox/hostname", json!("a b")),
        ("/sandbox/hostname", json!("")),
        ("/sandbox/stop_signal", json!(0)),
        ("/sandbox/stop_signal", json!(99999)),
        ("/sandbox/spec/name", json!("../x")),
        ("/sandbox/spec/hostname", json!("a b")),
        ("/sandbox/spec/memory", json!(u64::MAX)),
        ("/sandbox/spec/memory", json!(0)),
        ("/sandbox/spec/memory", json!(1_u64 << 40)),
        ("/sandbox/spec/memory", json!(256 << 20)),
        ("/sandbox/spec/upper/disk", json!(0)),
        ("/sandbox/spec/upper/disk", json!(u64::MAX)),
        ("/sandbox/spec/upper/disk", json!(5_u64 << 30)),
        ("/sandbox/spec/upper", json!("read_only")),
        ("/sandbox/spec/cpus", json!(0)),
        ("/sandbox/spec/cpus", json!(33_000)),
        ("/sandbox/spec/workdir", json!("relative")),
        ("/sandbox/spec/env", json!(["no value"])),
        (
            "/sandbox/spec/platform",
            json!({"os": "linux", "architecture": "s390x"}),
        ),
        ("/sandbox/image/id", json!(zero)),
        ("/sandbox/image/id", json!("sha256:../../x")),
        ("/sandbox/image/manifest", json!(zero)),
        ("/sandbox/image/disk_bytes", json!(4096)),
        ("/files", json!([])),
        ("/files/0/name", json!("../../memory")),
        ("/files/0/name", json!("state")),
        ("/files/0/bytes", json!(0)),
        ("/files/0/bytes", json!(u64::MAX)),
        ("/files/1/bytes", json!(1)),
        ("/files/2/bytes", json!(4096)),
        ("/files/0/digest", json!(zero)),
        ("/files/1/digest", json!(zero)),
        ("/files/2/digest", json!(zero)),
    ];
    for (at, value) in cases {
        let mut manifest = manifest.clone();
        *manifest.pointer_mut(at).unwrap() = value.clone();
        let about = format!("{at} as {value}");
        reject(
            &there,
            &bundle.with_manifest(&manifest).bytes(),
            &about,
            &[],
        );
    }
    assert_eq!(there.ok(["ps", "-aq"]), "");
}

#[test]
fn a_machine_with_other_processors_than_its_manifest_says_never_runs() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let export = Export::make(&here, &[]);
    let bundle = export.bundle();
    let mut manifest = bundle.manifest();
    assert_eq!(manifest["sandbox"]["spec"]["cpus"], 2000);
    manifest["sandbox"]["spec"]["cpus"] = 1000.into();
    // Only the device state itself tells.
    let done = import(&there, &bundle.with_manifest(&manifest).bytes(), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    there.refused(
        &["fork", "-n", "never", &export.id],
        &["needs 2 processors"],
    );
    until("its end", || there.ok(["ps", "-aq"]).is_empty());
}

#[test]
fn a_snapshot_that_names_anothers_id_does_not_take_its_place() {
    let coffer = Coffer::private();
    let [victim, other] = ["victim", "other"].map(|name| {
        let sandbox = coffer.script(&format!("echo {name} > /who"));
        coffer.ok(["wait", &sandbox.id]);
        sandbox
    });
    let disk = || {
        let info = Snapshot::of(&coffer, &victim.id, &[]).inspect();
        info["manifest"]["files"][0]["digest"].clone()
    };
    let before = disk();
    let snapshot = Snapshot::of(&coffer, &other.id, &[]);
    let exported = coffer.run(["snapshot", "export", &snapshot.id]).stdout;
    coffer.ok(["snapshot", "rm", &snapshot.id]);
    let bundle = Bundle::parse(&exported);
    let mut manifest = bundle.manifest();
    manifest["sandbox"]["id"] = victim.id.clone().into();
    let done = import(&coffer, &bundle.with_manifest(&manifest).bytes(), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    coffer.refused(&["restore", &snapshot.id], &["another sandbox"]);
    assert_eq!(disk(), before);
}

#[test]
fn paths_of_another_host_mean_nothing_here() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let export = Export::make(&here, &[]);
    let bundle = export.bundle();
    let mut manifest = bundle.manifest();
    manifest["sandbox"]["spec"]["kernel"] = "/etc/passwd".into();
    manifest["sandbox"]["image"]["rootfs"] = "/etc/passwd".into();
    let done = import(&there, &bundle.with_manifest(&manifest).bytes(), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    let imported = there.ok(["snapshot", "inspect", &export.id]);
    assert!(!imported.contains("/etc/passwd"), "{imported}");
    let fork = there.keep(there.ok(["fork", &export.id]));
    expect_content(&fork);
    assert_ne!(fork.id, export.sandbox);
}

#[test]
fn files_missing_doubled_strange_or_of_another_length_are_refused() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = export.bundle();
    let altered = |change: &dyn Fn(&mut Vec<Part>)| {
        let mut bundle = bundle.clone();
        change(&mut bundle.parts);
        bundle.bytes()
    };
    for name in ["memory", "state", "upper.ext4"] {
        let parts = bundle.file(name);
        let without = altered(&|all| drop(all.drain(parts.clone())));
        reject(&there, &without, &format!("no {name}"), &[]);
        let copy = bundle.parts[parts.clone()].to_vec();
        let twice = altered(&|all| drop(all.splice(parts.end..parts.end, copy.clone())));
        reject(&there, &twice, &format!("two of {name}"), &[]);
        let emptied = altered(&|all| drop(all.drain(parts.start + 1..parts.end - 1)));
        reject(&there, &emptied, &format!("{name} of zeroes"), &[]);
        for length in [0, 1, u64::MAX] {
            let other = altered(&|all| {
                all[parts.start].payload[..8].copy_from_slice(&length.to_le_bytes());
            });
            reject(&there, &other, &format!("{name} of {length} bytes"), &[]);
        }
        for strange in [
            "../../x",
            "/etc/passwd",
            "manifest.json",
            "other",
            "",
            "memory/x",
            "MEMORY",
        ] {
            let renamed = altered(&|all| {
                all[parts.start].payload.truncate(8);
                all[parts.start].payload.extend(strange.as_bytes());
            });
            reject(&there, &renamed, &format!("{name} as {strange}"), &[]);
        }
    }
    let end = bundle.parts.len() - 1;
    for strange in ["manifest.json", "lock", "other"] {
        let mut head = 0_u64.to_le_bytes().to_vec();
        head.extend(strange.as_bytes());
        let parts = [Part::new(*b"FILE", head), Part::new(*b"DONE", Vec::new())];
        let more = altered(&|all| drop(all.splice(end..end, parts.clone())));
        reject(&there, &more, &format!("{strange} besides"), &[]);
    }
    let headless = altered(&|all| drop(all.remove(0)));
    reject(&there, &headless, "no manifest", &[]);
    let endless = altered(&|all| drop(all.pop()));
    reject(&there, &endless, "no end", &[]);
}

#[test]
fn an_export_to_a_full_disk_fails_and_leaves_no_part() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    coffer.refused(
        &["snapshot", "export", "-o", "/dev/full", &snapshot.id],
        &["No space left"],
    );
    coffer.refused(
        &["snapshot", "export", "-o", "/no/such/dir/x", &snapshot.id],
        &["/no/such/dir"],
    );
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=256k tmpfs "$1" && echo old > "$1/x" && "$0" snapshot export -o "$1/x" "$2"
                    code=$?; ls -A "$1"; cat "$1/x"; exit $code"#;
    let Some(done) = in_namespace(
        &coffer,
        script,
        &[dir.path().to_str().unwrap(), &snapshot.id],
    ) else {
        println!("SKIP an_export_to_a_full_disk: no file system can be mounted here");
        return;
    };
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("No space left"), "{done:?}");
    assert_eq!(done.text(), "x\nold", "{done:?}");
    coffer.ok(["snapshot", "verify", &snapshot.id]);
}

#[test]
fn an_import_to_a_full_disk_fails_and_leaves_no_part() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &export.bytes).unwrap();
    let snapshots = there.home().join("snapshots");
    there.ok(["snapshot", "list"]);
    let script = r#"mount -t tmpfs -o size=2m tmpfs "$1" && "$0" snapshot import -q "$2"
                    code=$?; ls -A "$1"; exit $code"#;
    let args = [snapshots.to_str().unwrap(), file.path().to_str().unwrap()];
    let Some(done) = in_namespace(&there, script, &args) else {
        println!("SKIP an_import_to_a_full_disk: no file system can be mounted here");
        return;
    };
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("No space left"), "{done:?}");
    assert!(done.text().is_empty() || done.text() == "lock", "{done:?}");
}

/// Runs a shell script with mounts of its own, the program as `$0`; none where that is forbidden.
fn in_namespace(coffer: &Coffer, script: &str, args: &[&str]) -> Option<Finished> {
    let unshare = ["-r", "-m"];
    let able = Command::new("unshare").args(unshare).arg("true").output();
    if !able.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let program = coffer.command([""; 0]);
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", script])
        .arg(program.get_program())
        .args(args)
        .env("COFFER_HOME", coffer.home())
        .output()
        .unwrap();
    Some(Finished {
        code: output.status.code().unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        elapsed: std::time::Duration::ZERO,
    })
}
