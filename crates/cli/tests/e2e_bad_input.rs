//! What is wrong is said in one sentence, with the right exit code, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Finished},
    image::busybox_archive,
};

/// One sentence on standard error, nothing on standard output.
fn assert_one_sentence(done: &Finished, code: i32, word: &str) {
    assert_eq!(done.code, code, "{done:?}");
    assert!(done.stdout.is_empty(), "{done:?}");
    let said: Vec<&str> = done
        .stderr
        .lines()
        .filter(|line| !line.contains("hint"))
        .collect();
    assert_eq!(said.len(), 1, "{done:?}");
    assert!(done.stderr.contains(word), "`{word}` in {done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn an_unknown_image_and_a_bad_name_are_told_apart() {
    let coffer = Coffer::shared();
    let unknown = coffer.run(["run", "--rm", "--pull", "never", "not/there:1", "true"]);
    assert_one_sentence(&unknown, 125, "not/there:1");
    let bad = coffer.run(["run", "--rm", "UPPER CASE", "true"]);
    assert_one_sentence(&bad, 125, "UPPER CASE");
}

#[test]
fn a_damaged_archive_leaves_no_image() {
    let coffer = Coffer::empty();
    let good = busybox_archive("broken:test");
    for (what, bytes) in [
        ("truncated", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        (
            "noise",
            (0..100_000_u32)
                .map(|n| n.to_le_bytes()[1] ^ 0x5a)
                .collect(),
        ),
        ("flipped", {
            let mut bytes = good.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
    ] {
        let done = coffer.run_with_input(["load"], &bytes);
        assert_eq!(done.code, 1, "{what}: {done:?}");
        assert!(!done.stderr.contains("panicked"), "{what}: {done:?}");
        assert_eq!(coffer.ok(["images", "-q"]), "", "{what}");
    }
    let files = walk(&coffer.home().join("images"));
    assert!(
        files
            .iter()
            .all(|path| !path.contains(".tmp-") && !path.contains("blobs/sha256/")),
        "{files:?}"
    );
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path.display().to_string()]
            }
        })
        .collect()
}

#[test]
fn a_kernel_that_is_none_fails_soon_and_says_so() {
    let coffer = Coffer::shared();
    let begin = Instant::now();
    let text = coffer.run(["run", "--rm", "--kernel", "/etc/passwd", BUSYBOX, "true"]);
    assert_one_sentence(&text, 125, "kernel");
    let missing = coffer.run(["run", "--rm", "--kernel", "/no/kernel", BUSYBOX, "true"]);
    assert_one_sentence(&missing, 125, "/no/kernel");
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn sizes_and_numbers_out_of_range_are_refused() {
    let coffer = Coffer::shared();
    for args in [
        ["--memory", "1m"],
        ["--memory", "900t"],
        ["--memory", "many"],
        ["--cpus", "-1"],
        ["--cpus", "1000"],
        ["--stop-signal", "NOPE"],
        ["--cpuset-cpus", "5"],
        ["-h", "bad host"],
        ["--disk", "1k"],
        ["--tmpfs", "relative"],
        ["--tmpfs", "/"],
        ["--tmpfs", "/proc/sys:size=1m"],
        ["--platform", "linux/riscv64"],
        ["--platform", "nonsense"],
        ["--name", "a b"],
        ["-w", "relative"],
        ["--env-file", "/no/such/file"],
        ["--pull", "sometimes"],
    ] {
        let done = coffer.run(["run", "--rm", args[0], args[1], BUSYBOX, "true"]);
        assert_eq!(done.code, 125, "{args:?} {done:?}");
        assert!(!done.stderr.contains("panicked"), "{args:?} {done:?}");
    }
}

#[test]
fn a_failed_start_leaves_no_machine_and_no_sandbox_behind() {
    let coffer = Coffer::private();
    assert_eq!(
        coffer.run(["run", "--rm", BUSYBOX, "nothing-there"]).code,
        127
    );
    assert_eq!(coffer.ok(["ps", "-aq"]), "");
    let kept = coffer.run(["run", "--name", "kept", BUSYBOX, "nothing-there"]);
    assert_eq!(kept.code, 127);
    let info: serde_json::Value = serde_json::from_str(&coffer.ok(["inspect", "kept"])).unwrap();
    assert_eq!(info[0]["status"], "failed");
    assert!(
        info[0]["failure"]
            .as_str()
            .unwrap()
            .contains("nothing-there"),
        "{info}"
    );
    coffer.ok(["rm", "kept"]);
}

#[test]
fn a_sandbox_that_could_not_even_begin_is_removed_if_it_would_be_at_its_end() {
    let coffer = Coffer::private();
    let probe = coffer.command(["version"]);
    let program = probe.get_program().to_str().unwrap();
    // Enough to make a sandbox, too few for its supervisor's socket and log.
    let starves = |limit: u32, flags: &str| {
        let script = format!("ulimit -n {limit}; '{program}' run {flags} {BUSYBOX} true");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .env("COFFER_HOME", coffer.home())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).contains("supervisor")
    };
    let limit = (3..40).find(|limit| starves(*limit, "--rm")).unwrap();
    assert_eq!(coffer.ok(["ps", "-aq"]), "");
    assert!(starves(limit, "--name kept"));
    assert_eq!(coffer.status("kept"), "created");
}

#[test]
fn a_store_that_cannot_be_written_is_a_clear_error() {
    let coffer = Coffer::empty();
    let mut command = coffer.command(["ps"]);
    command.env("COFFER_HOME", "/proc/no-such-place");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("/proc/no-such-place") && stderr.contains("COFFER_HOME"),
        "{stderr}"
    );
}

#[test]
fn a_list_that_may_not_be_read_is_not_an_empty_one() {
    let coffer = Coffer::empty();
    coffer.ok(["ps"]);
    let closed = coffer.home().join("sandboxes");
    let probe = coffer.command(["ps"]);
    // Root has the capabilities to read what the mode forbids.
    let script = "chmod 000 \"$1\"; shift
        if test $(id -u) = 0; then set -- setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"; fi
        exec \"$@\" ps -a";
    let output = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .args([&closed, Path::new(probe.get_program())])
        .env("COFFER_HOME", coffer.home())
        .output()
        .unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("sandboxes`: Permission denied"), "{stderr}");
}

#[test]
fn the_doctor_looks_at_the_host_also_without_a_store() {
    let coffer = Coffer::empty();
    let mut command = coffer.command(["doctor"]);
    let output = command
        .env("COFFER_HOME", "/proc/no-such-place")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    for part in [
        "--   store: Could not make `/proc/no-such-place`",
        "mend it: export COFFER_HOME=",
        "KVM",
        "qemu-tcg",
        "guest kernel",
    ] {
        assert!(said.contains(part), "`{part}` in {said}");
    }
    let well = coffer.run(["doctor"]);
    assert!(well.text().contains("ok   store: "), "{well:?}");
}

#[test]
fn an_unknown_sandbox_and_verb_are_told_with_their_codes() {
    let coffer = Coffer::shared();
    for args in [
        ["stop", "nobody"],
        ["logs", "nobody"],
        ["rm", "nobody"],
        ["inspect", "nobody"],
    ] {
        let done = coffer.run(args);
        assert_eq!(done.code, 1, "{args:?} {done:?}");
        assert!(done.stderr.contains("nobody"), "{args:?} {done:?}");
    }
    assert_ne!(coffer.run(["no-such-verb"]).code, 0);
}

#[test]
fn a_damaged_sandbox_is_told_of_and_removed() {
    let coffer = Coffer::private();
    let id = coffer.ok(["create", "--name", "hurt", BUSYBOX]);
    let record = coffer
        .home()
        .join("sandboxes")
        .join(&id)
        .join("sandbox.json");
    std::fs::write(record, "{").unwrap();
    let list = coffer.run(["ps", "-aq"]);
    assert_eq!((list.code, list.text().as_str()), (0, ""), "{list:?}");
    let warned = ["warning: ", "damaged", "coffer rm -f"];
    assert!(
        warned.iter().all(|word| list.stderr.contains(word)),
        "{list:?}"
    );
    coffer.ok(["rm", "-f", "hurt"]);
    assert_eq!(coffer.run(["ps", "-aq"]).stderr, "");
}

#[test]
fn on_a_full_disk_sandboxes_are_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        cofferdam_testkit::skip("no file system can be mounted here");
        return;
    }
    let coffer = Coffer::empty();
    let archive = cofferdam_testkit::image::busybox().archive("full:test");
    std::fs::write(coffer.home().join("image.tar"), archive).unwrap();
    let run = |args: &[&str]| {
        let mut command = coffer.command(args);
        let output = command.env("COFFER_HOME", dir.path()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let archive = coffer.home().join("image.tar");
    let loaded = run(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let made = run(&["create", "--name", "full", "full:test"]);
    // It ends when nothing fits any more.
    let filled = std::fs::write(dir.path().join("filler"), vec![1; 24 << 20]);
    let listed = run(&["ps", "-a", "--format", "json"]);
    let refused = run(&["create", "full:test"]);
    let removed = run(&["rm", "full"]);
    let empty = run(&["ps", "-aq"]);
    std::process::Command::new("umount")
        .arg(dir.path())
        .status()
        .unwrap();
    assert_eq!(
        (loaded.0, made.0),
        (Some(0), Some(0)),
        "{loaded:?} {made:?}"
    );
    assert!(filled.is_err());
    assert!(listed.1.contains("full"), "{listed:?}");
    assert!(
        refused.2.contains("space") && refused.2.contains("hint: "),
        "{refused:?}"
    );
    assert_eq!(
        (removed.0, removed.1.as_str()),
        (Some(0), "full"),
        "{removed:?}"
    );
    assert_eq!((empty.0, empty.1.as_str()), (Some(0), ""), "{empty:?}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        cofferdam_testkit::skip("no file system can be mounted here");
        return;
    }
    let coffer = Coffer::empty();
    let mut image = cofferdam_testkit::image::busybox();
    for number in 0..8_u8 {
        image = image.file(&format!("file{number}"), 0o644, &vec![number; 1 << 20]);
    }
    let mut command = coffer.command(["load"]);
    command
        .env("COFFER_HOME", dir.path())
        .stdin(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program stops reading when the disk is full.
    let _ = std::io::Write::write_all(
        &mut child.stdin.take().unwrap(),
        &image.archive("full:test"),
    );
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut list = coffer.command(["images", "-q"]);
    let listed = list.env("COFFER_HOME", dir.path()).output().unwrap();
    std::process::Command::new("umount")
        .arg(dir.path())
        .status()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("space"), "{stderr}");
    assert!(listed.stdout.is_empty());
}
