//! Full snapshots on other hosts: the same QEMU elsewhere, under another user, and another QEMU.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    image, qemu,
};

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// A host by its store, its QEMU and its user.
struct Host {
    coffer: Coffer,
    qemu: PathBuf,
    user: Option<u32>,
}

impl Host {
    fn new(qemu: PathBuf, user: Option<u32>) -> Self {
        let host = Self {
            coffer: Coffer::empty(),
            qemu,
            user,
        };
        if let Some(user) = user {
            chown(host.coffer.home(), Some(user), Some(user)).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("image");
        fs::write(&archive, image::busybox_archive(BUSYBOX)).unwrap();
        host.ok_with(&["load"], &archive);
        host
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.coffer.command(args);
        command
            .env("COFFER_QEMU", &self.qemu)
            .env("HOME", self.coffer.home())
            .env_remove("XDG_RUNTIME_DIR");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    fn run(&self, args: &[&str], input: Option<&Path>) -> Output {
        let input = input.map(|path| fs::File::open(path).unwrap());
        let stdin = input.map_or_else(Stdio::null, Stdio::from);
        self.command(args).stdin(stdin).output().unwrap()
    }

    fn ok_with(&self, args: &[&str], input: &Path) -> String {
        text(&self.run(args, Some(input)))
    }

    fn ok(&self, args: &[&str]) -> String {
        text(&self.run(args, None))
    }

    fn refusal(&self, args: &[&str], input: &Path) -> String {
        let output = self.run(args, Some(input));
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "-f", "src"]).output();
        let _ = self.command(&["rm", "-f", "disk"]).output();
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_full_snapshot_goes_on_with_the_same_qemu_elsewhere_and_its_disk_with_any() {
    let dir = tempfile::tempdir().unwrap();
    // Others may look into it, so that another user finds QEMU and its firmware.
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let here = Host::new(qemu::program(), None);
    here.ok(&[
        "run",
        "-d",
        "--name",
        "src",
        BUSYBOX,
        "sh",
        "-c",
        // A start runs it again: the file is not made empty for a moment then.
        "test -s /kept || echo kept > /kept; sync; sleep 1000000",
    ]);
    here.ok(&["exec", "src", "sh", "-c", "until test -s /kept; do :; done"]);
    here.ok(&["snapshot", "create", "-n", "full", "src"]);
    let (full, disk) = (dir.path().join("full"), dir.path().join("disk"));
    here.ok(&["snapshot", "export", "-o", full.to_str().unwrap(), "full"]);
    here.ok(&[
        "snapshot",
        "export",
        "--disk-only",
        "-o",
        disk.to_str().unwrap(),
        "full",
    ]);

    // The same program as another file, and another user where this one may become one.
    let copy = qemu::copied(&dir.path().join("copy"));
    let is_root = rustix::process::geteuid().is_root();
    let there = Host::new(copy, is_root.then_some(NOBODY));
    there.ok_with(&["snapshot", "import"], &full);
    there.ok(&["restore", "full"]);
    assert_eq!(there.ok(&["exec", "src", "cat", "/kept"]), "kept");

    // Another version.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let script = "case $* in *-version) echo 'QEMU emulator version 99.1 (Other)'; exit ;; esac";
    let elsewhere = Host::new(qemu::wrapped(&other, script), None);
    let refusal = elsewhere.refusal(&["snapshot", "import"], &full);
    for part in [
        "QEMU: it has `",
        "this host has `99.1 (Other)`",
        "--disk-only",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    elsewhere.ok_with(&["snapshot", "import"], &disk);
    elsewhere.ok(&["restore", "full"]);
    elsewhere.ok(&["start", "src"]);
    assert_eq!(elsewhere.ok(&["exec", "src", "cat", "/kept"]), "kept");

    // The same QEMU on a processor whose counter has another rate.
    let taken = here.ok(&["snapshot", "inspect", "full"]);
    if taken.contains("\"counter_khz\"") {
        let slower = Host::new(qemu::program(), None);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let kept = format!("cache/counter-{}.json", boot.trim());
        fs::write(slower.coffer.home().join(kept), "1000000").unwrap();
        let refusal = slower.refusal(&["snapshot", "import"], &full);
        assert!(refusal.contains("here it runs at 1000000 kHz"), "{refusal}");
    }

    // Where the whole is, its disk can be taken out too.
    there.ok(&["fork", "--disk-only", "-n", "disk", "full"]);
    there.ok(&["start", "disk"]);
    assert_eq!(there.ok(&["exec", "disk", "cat", "/kept"]), "kept");
    there.ok(&["rm", "-f", "src"]);
    let restored = there.ok(&["restore", "--disk-only", "full"]);
    let running = there.ok(&["ps", "-q", "--no-trunc"]);
    assert!(!running.contains(&restored), "{running}");
}
