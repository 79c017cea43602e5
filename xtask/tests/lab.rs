//! The lab, and in it what no other test can show on a host whose KVM runs no kernel: sandboxes
//! by KVM.
//!
//! Run when asked by `COFFER_LAB_TEST=1`, and not by continuous integration: the emulator of
//! QEMU 7.2 stops for ever in about one of fifty labs, and a test that sometimes fails is broken.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::print_stdout,
    reason = "a failure is told with what the lab said"
)]

use std::{env, ffi::OsString, fs, path::Path, process::Command};

use cofferdam_testkit::image::busybox_archive;

/// A sandbox by KVM is booted, changed and forked while it runs. `$1` is the program, `$2` an
/// image's archive, `$3` a file to write.
const SANDBOXES: &str = r#"
echo BEGIN
"$1" load -q -i "$2"
"$1" run -d --backend qemu-kvm --name parent lab:test sleep 1d >/dev/null
"$1" inspect parent | grep '^    "backend": "qemu-kvm",'
"$1" exec parent sh -c 'echo written >/file'
"$1" fork -n child parent >/dev/null
"$1" exec child sh -c 'cat /file; kill -9 $$' || echo "status $?"
"$1" inspect child | grep '"status"'
"$1" rm -f parent child
"$1" ps -aq
echo >"$3"
exit 3
"#;

/// For all of it, downloads too: it takes 25 s on an idle machine.
const LIMIT_S: &str = "400";

/// Runs a script in the lab; its words are `$1` and on.
fn lab(script: &str, words: &[OsString]) -> (Option<i32>, String) {
    let output = Command::new("timeout")
        .args(["--foreground", LIMIT_S])
        .args([env!("CARGO_BIN_EXE_xtask"), "lab"])
        .args(["--", "sh", "-ec", script, "sh"])
        .args(words)
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    print!("{text}");
    // The first use downloads packages, and says so.
    let (_, answer) = text.split_once("BEGIN\n").unwrap();
    (output.status.code(), answer.to_owned())
}

#[test]
fn a_sandbox_runs_and_forks_by_kvm_in_the_lab_and_the_lab_leaves_nothing() {
    if env::var_os("COFFER_LAB_TEST").is_none() {
        println!("SKIP: `COFFER_LAB_TEST` is not set");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = env::var_os("COFFER_PROGRAM")
        .unwrap_or_else(|| root.join("target/release/coffer").into_os_string());
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.tar");
    fs::write(&image, busybox_archive("lab:test")).unwrap();
    let touched = directory.path().join("touched");

    let before = machines();
    let words = [program, image.into(), touched.clone().into()];
    let (status, output) = lab(SANDBOXES, &words);

    let expected = [
        "Loaded image: lab:test",
        r#"    "backend": "qemu-kvm","#,
        "written",
        "status 137",
        r#"    "status": "running","#,
        "parent",
        "child",
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    assert_eq!(status, Some(3));
    assert!(!touched.exists(), "the lab wrote to the host's files");
    assert_eq!(machines(), before, "the lab left files");
}

/// Directories of labs that run, or were killed.
fn machines() -> Vec<OsString> {
    let lab = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("lab");
    let entries = fs::read_dir(lab).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("machine-"))
        .collect()
}
