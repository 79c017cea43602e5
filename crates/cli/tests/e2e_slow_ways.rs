//! Starts whose quick ways are closed: they take the slow one, say why, and work.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{fs, path::Path, process::Stdio};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Finished},
    image, qemu,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A store of its own whose machines run under a changed QEMU.
struct Changed {
    coffer: Coffer,
    dir: tempfile::TempDir,
    qemu: std::path::PathBuf,
}

impl Changed {
    /// `script` sees QEMU's arguments as `$@` and the test's directory as `$dir`.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("dir={}\n{script}", dir.path().display());
        let qemu = qemu::wrapped(dir.path(), &script);
        let coffer = Coffer::empty();
        let changed = Self { coffer, dir, qemu };
        let archive = image::busybox_archive(BUSYBOX);
        assert_eq!(changed.coffer.run_with_input(["load"], &archive).code, 0);
        changed
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = self.coffer.command(args);
        command.env("COFFER_QEMU", &self.qemu).stdin(Stdio::null());
        let output = command.output().unwrap();
        Finished {
            code: output.status.code().unwrap(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
            elapsed: std::time::Duration::ZERO,
        }
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.run(args).stdout).unwrap()
    }

    /// Runs a sandbox that is kept; returns what its start said and the reasons in `inspect`.
    fn kept(&self, name: &str) -> (String, String) {
        let ran = self.run(&[
            "--timings",
            "run",
            "--name",
            name,
            BUSYBOX,
            "echo",
            "it runs",
        ]);
        assert_eq!((ran.code, ran.text().as_str()), (0, "it runs"), "{ran:?}");
        let info = self.json(&["inspect", name]);
        (ran.stderr, info[0]["degraded"].to_string())
    }

    /// The check of `doctor` about templates.
    fn check(&self) -> Value {
        let report = self.json(&["doctor", "--json"]);
        let checks = report["checks"].as_array().unwrap();
        let is_it = |check: &&Value| check["name"] == "templates";
        checks.iter().find(is_it).unwrap().clone()
    }
}

/// A disk of a form that QEMU captures no machine with (`block/qcow.c`): version 1, 1 MiB, empty.
fn uncapturable_disk(path: &Path) {
    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(1_u32.to_be_bytes());
    // Backing file and time of change: none.
    header.extend([0; 16]);
    header.extend((1_u64 << 20).to_be_bytes());
    // Bits of a cluster's and of a table's size; padding; no encryption; where the first table is.
    header.extend([12, 9, 0, 0]);
    header.extend(0_u32.to_be_bytes());
    header.extend(48_u64.to_be_bytes());
    header.extend([0; 8]);
    fs::write(path, header).unwrap();
}

#[test]
fn a_run_works_without_templates_when_qemu_makes_no_captures_and_says_so() {
    let changed = Changed::new(
        "case \"$*\" in *console=ttyS0*) echo boot >>$dir/boots; set -- \"$@\" -blockdev \
         driver=qcow,node-name=q,file.driver=file,file.filename=$dir/q ;; esac",
    );
    uncapturable_disk(&changed.dir.path().join("q"));
    let boots = || fs::read_to_string(changed.dir.path().join("boots")).unwrap();
    let (said, noted) = changed.kept("one");
    for text in [&said, &noted] {
        assert!(text.contains("The base template cannot be made"), "{text}");
        // The time line cuts long sentences.
        assert!(text.contains("migrat"), "{text}");
    }
    let check = changed.check();
    assert_eq!(check["ok"], false, "{check}");
    assert!(check["detail"].to_string().contains("migration"), "{check}");
    // The guest that is captured in vain may be the second or third: on a busy host one may have
    // been unfit before.
    let of_first = boots().lines().count();
    assert!(of_first >= 2, "one of a template, one of the sandbox");
    // The next one does not try again at once, and gives the reason all the same.
    let (_, noted) = changed.kept("two");
    assert!(noted.contains("migration"), "{noted}");
    let of_both = boots().lines().count();
    assert_eq!(of_both, of_first + 1, "the second one made another guest");
    // Who asks for one has it tried again.
    let built = changed.run(&["template", "build", BUSYBOX]);
    assert_eq!(built.code, 1, "{built:?}");
    let again = boots().lines().count();
    assert!(again > of_both, "no other guest was made");
    let forked = changed.run(&["run", "-d", "--name", "three", BUSYBOX, "sleep", "1000"]);
    assert_eq!(forked.code, 0, "{forked:?}");
    let exec = changed.run(&["exec", "three", "echo", "yes"]);
    assert_eq!((exec.code, exec.text().as_str()), (0, "yes"), "{exec:?}");
}

/// The templates of a store by their directories, with the kind.
fn templates(home: &Path) -> Vec<(std::path::PathBuf, String)> {
    let entries = fs::read_dir(home.join("templates")).unwrap();
    let with_kind = entries.filter_map(|entry| {
        let dir = entry.unwrap().path();
        let manifest = fs::read(dir.join("manifest.json")).ok()?;
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        Some((dir, manifest["kind"].as_str().unwrap().to_owned()))
    });
    with_kind.collect()
}

/// Cuts a template's device state off, and has its manifest agree with that.
fn cut_state(dir: &Path) {
    let state = dir.join("state");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..bytes.len() - 100]).unwrap();
    let path = dir.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let digest = Sha256::digest(&bytes[..bytes.len() - 100]);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    manifest["state_digest"] = format!("sha256:{hex}").into();
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn templates_that_cannot_be_restored_are_dropped_and_the_sandbox_boots() {
    let changed = Changed::new("");
    let built = changed.run(&["template", "build", BUSYBOX]);
    assert_eq!(built.code, 0, "{built:?}");
    let all = templates(changed.coffer.home());
    assert_eq!(all.len(), 2, "{all:?}");
    for (dir, kind) in &all {
        match kind.as_str() {
            // One is refused by the backend, of the other a look is enough.
            "image" => cut_state(dir),
            _ => fs::write(dir.join("state"), b"").unwrap(),
        }
    }
    let (said, noted) = changed.kept("one");
    for text in [&said, &noted] {
        assert!(
            text.contains("The image template could not be used and was removed"),
            "{text}"
        );
    }
    // Both are made again for the next.
    let built = changed.run(&["template", "build", BUSYBOX]);
    assert_eq!(built.code, 0, "{built:?}");
    let (_, noted) = changed.kept("two");
    assert_eq!(noted, "null");
    assert_eq!(changed.check()["ok"], true);
}

#[test]
fn an_interpreter_that_could_not_be_run_ahead_is_told() {
    let coffer = Coffer::empty();
    let fails = b"#!/bin/sh\necho broken >&2\nexit 3\n";
    let archive = image::busybox()
        .directory("opt", 0o755)
        .file("opt/python3", 0o755, fails)
        .config("Cmd", serde_json::json!(["/opt/python3"]))
        .archive("interpreter:1");
    assert_eq!(coffer.run_with_input(["load"], &archive).code, 0);
    coffer.ok(["template", "build", "interpreter:1"]);
    let args = ["run", "--timings", "--name", "one", "interpreter:1", "true"];
    let ran = coffer.run(args);
    assert_eq!(ran.code, 0, "{ran:?}");
    let reasons = coffer.inspect("one")["degraded"].to_string();
    for text in [&ran.stderr, &reasons] {
        assert!(
            text.contains("`/opt/python3 -c pass` could not be run ahead: it ended with 3"),
            "{text}"
        );
    }
    assert!(reasons.contains("broken"), "{reasons}");
}

#[test]
fn a_guest_with_coarse_timers_becomes_no_template() {
    // No guest has high-resolution timers (Linux `kernel-parameters.txt`, `highres=`).
    let changed = Changed::new(
        "for word; do shift; case $word in *console=ttyS0*)\n\
         echo boot >>$dir/boots; word=\"$word highres=off\" ;;\n\
         esac; set -- \"$@\" \"$word\"; done",
    );
    let (_, noted) = changed.kept("one");
    assert!(noted.contains("fit to be a template"), "{noted}");
    let boots = fs::read_to_string(changed.dir.path().join("boots")).unwrap();
    assert!(boots.lines().count() > 2, "another guest was not tried");
    assert!(templates(changed.coffer.home()).is_empty());
    let check = changed.check();
    assert!(check["detail"].to_string().contains("template"), "{check}");
}
