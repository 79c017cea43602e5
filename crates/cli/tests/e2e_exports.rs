//! `coffer snapshot export` and `import` between stores, and to full disks: the real program.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use cofferdam_testkit::{
    coffer::{Coffer, Finished},
    copies::Snapshot,
    exports::{Export, expect_content, import, write_content},
};
use serde_json::json;

#[test]
fn a_snapshot_moves_through_a_pipe_to_another_store_and_runs_there() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let source = here.sleeper();
    write_content(&source);
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
    let fresh = dir.path().join("fresh");
    here.ok([
        "snapshot",
        "export",
        "-o",
        fresh.to_str().unwrap(),
        &snapshot.id,
    ]);
    let mode = fs::metadata(&fresh).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut command = here.command(["snapshot", "export", "-o", "-", &snapshot.id]);
    let output = command.current_dir(dir.path()).output().unwrap();
    assert!(output.stdout == fs::read(&fresh).unwrap());
    fs::remove_file(fresh).unwrap();
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
        cofferdam_testkit::skip("no file system can be mounted here");
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
        cofferdam_testkit::skip("no file system can be mounted here");
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
