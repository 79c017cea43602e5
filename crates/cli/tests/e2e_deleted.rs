//! What a sandbox deletes leaves the file of its disk, and all copies that are made of it later:
//! the real program, real guests.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    copies::Snapshot,
    exports::import,
    sandboxes::until,
};

/// What a deleted file held, again and again. No other file and no name has it.
const SECRET: &str = "deleted-content-0a7c51e3";

/// Writes the secret to a large file and to small ones of a block, and a file that stays. All is on
/// the disk when this returns.
fn write_secret(sandbox: &Sleeper<'_>) {
    // The words are put together in the guest, so that no command line holds them.
    sandbox.sh(
        "mkdir /secret; yes deleted-content-$(echo 0a7c5)1e3 | head -n 200000 > /secret/large; \
         for i in $(seq 60); do head -n 20 /secret/large > /secret/$i; echo $i > /kept$i; done; \
         seq 30000 > /kept; sync",
    );
}

fn upper(coffer: &Coffer, sandbox: &Sleeper<'_>) -> PathBuf {
    let directory = coffer.home().join("sandboxes").join(&sandbox.id);
    let upper = directory.join("upper.ext4");
    assert!(upper.is_file(), "{}", upper.display());
    upper
}

fn allocated_mib(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() / 2048
}

/// Whether a file has it. A disk is gigabytes of holes, which `grep` reads in a second.
fn holds_secret(file: &Path) -> bool {
    let mut grep = Command::new("grep");
    grep.args(["--quiet", "--text", "--fixed-strings", SECRET]);
    match grep.arg(file).status().unwrap().code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("grep ended with {other:?}"),
    }
}

fn assert_clean(upper: &Path) {
    match Command::new("/sbin/e2fsck").arg("-fn").arg(upper).output() {
        Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
        Err(error) => cofferdam_testkit::skip(&format!("e2fsck: {error}")),
    }
}

/// Whether the disk in an export has it. An export is compressed, so another store, which has the
/// image, unpacks it.
fn export_holds_secret(coffer: &Coffer, snapshot: &Snapshot<'_>, args: &[&str]) -> bool {
    let command = ["snapshot", "export", "-q", &snapshot.id];
    let exported = coffer.run(command.iter().chain(args));
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    let there = Coffer::private();
    let imported = import(&there, &exported.stdout, &[]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    let copy = Snapshot::keep(&there, imported.text());
    holds_secret(&copy.file("upper.ext4"))
}

#[test]
fn a_deleted_secret_is_in_no_export_and_in_no_fork_of_the_disk() {
    let coffer = Coffer::shared();
    // A small disk: the test reads all of it.
    let sandbox = coffer.detached(&["--disk", "256m", BUSYBOX, "sleep", "1000000"]);
    write_secret(&sandbox);
    let sum = sandbox.sh("cat /kept /kept? /kept?? | md5sum");
    assert!(holds_secret(&upper(&coffer, &sandbox)));
    let before = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    assert!(export_holds_secret(&coffer, &before, &[]));
    // Nothing else is written, and no time passes, before the captures.
    sandbox.sh("rm -r /secret");
    let disk = Snapshot::of(&coffer, &sandbox.id, &["--disk"]);
    sandbox.sh("echo $(echo more) > /more");
    let full = Snapshot::of(&coffer, &sandbox.id, &[]);
    let fork = sandbox.fork(&[]);
    for (snapshot, args) in [(&disk, &[][..]), (&full, &["--disk-only"])] {
        assert!(!holds_secret(&snapshot.file("upper.ext4")));
        assert!(!export_holds_secret(&coffer, snapshot, args));
    }
    assert!(!holds_secret(&upper(&coffer, &fork)));
    assert_clean(&disk.file("upper.ext4"));
    for machine in [&fork, &disk.fork(&[]), &sandbox] {
        if machine.status() == "created" {
            coffer.ok(["start", &machine.id]);
        }
        assert_eq!(machine.sh("cat /kept /kept? /kept?? | md5sum"), sum);
    }
    // A machine that goes on from a capture can do the same.
    write_secret(&fork);
    assert!(holds_secret(&upper(&coffer, &fork)));
    fork.sh("rm -r /secret");
    let of_fork = Snapshot::of(&coffer, &fork.id, &["--disk"]);
    assert!(!holds_secret(&of_fork.file("upper.ext4")));
    assert_eq!(fork.sh("cat /kept | wc -l"), "30000");
}

#[test]
fn a_stopped_sandboxs_disk_does_not_hold_what_was_deleted() {
    let coffer = Coffer::shared();
    let sandbox = coffer.detached(&["--disk", "256m", BUSYBOX, "sleep", "1000000"]);
    write_secret(&sandbox);
    let sum = sandbox.sh("cat /kept /kept? /kept?? | md5sum");
    sandbox.sh("rm -r /secret");
    coffer.ok(["stop", "-t", "0", &sandbox.id]);
    let upper = upper(&coffer, &sandbox);
    assert!(!holds_secret(&upper));
    assert_clean(&upper);
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    assert!(!export_holds_secret(&coffer, &snapshot, &[]));
    coffer.ok(["start", &sandbox.id]);
    assert_eq!(sandbox.sh("cat /kept /kept? /kept?? | md5sum"), sum);
}

#[test]
fn a_quiet_sandboxs_disk_shrinks_after_a_delete_and_its_forks_are_small() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let upper = upper(&coffer, &sandbox);
    sandbox.sh("head -c 200000000 /dev/zero | tr '\\0' x > /large; sync; echo kept > /kept");
    assert!(allocated_mib(&upper) >= 190);
    sandbox.sh("rm /large");
    until("the disk's file is small", || allocated_mib(&upper) < 60);
    let fork = sandbox.fork(&[]);
    let of_fork = coffer.home().join("sandboxes").join(&fork.id);
    assert!(allocated_mib(&of_fork.join("upper.ext4")) < 60);
    assert_eq!(fork.sh("cat /kept"), "kept");
    // Freed blocks can be had again, by both.
    for machine in [&fork, &sandbox] {
        machine.sh("seq 3000000 > /again; sync");
        assert_eq!(machine.sh("tail -n 1 /again"), "3000000");
    }
    assert_eq!(sandbox.inspect()["degraded"], serde_json::Value::Null);
}
