//! `coffer run`: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::coffer::{BUSYBOX, Coffer};

/// Runs a command in a fresh sandbox of the shared store.
fn run(args: &[&str]) -> cofferdam_testkit::coffer::Finished {
    Coffer::shared().run(["run", "--rm"].iter().chain(args))
}

#[test]
fn a_command_runs_and_its_output_and_exit_code_come_back() {
    let done = run(&[BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(done.code, 42, "{done:?}");
    assert_eq!(done.stdout, b"out\n");
    assert_eq!(done.stderr, "err\n");
}

#[test]
fn two_dashes_before_the_command_are_allowed() {
    assert_eq!(run(&[BUSYBOX, "--", "echo", "--", "-x"]).text(), "-- -x");
    assert_eq!(run(&[BUSYBOX, "echo", "-n", "x"]).text(), "x");
}

#[test]
fn two_dashes_are_an_argument_of_an_entrypoint() {
    let done = run(&["--entrypoint", "echo", BUSYBOX, "--", "x"]);
    assert_eq!(done.text(), "-- x");
}

#[test]
fn the_images_own_command_runs_when_none_is_given() {
    let coffer = Coffer::shared();
    let done = coffer.run_with_input(["run", "--rm", "-i", BUSYBOX], b"echo from sh\n");
    assert_eq!(
        (done.code, done.text().as_str()),
        (0, "from sh"),
        "{done:?}"
    );
}

#[test]
fn docker_exit_codes_tell_a_missing_program_from_one_that_cannot_run() {
    let missing = run(&[BUSYBOX, "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.stderr.contains("no-such-program"), "{missing:?}");
    assert_eq!(run(&[BUSYBOX, "/etc/passwd"]).code, 126);
    assert_eq!(run(&[BUSYBOX, "/etc"]).code, 126);
    assert_eq!(run(&["no-such-image", "--pull", "never"]).code, 125);
    assert_eq!(run(&["--no-such-flag", BUSYBOX]).code, 125);
}

#[test]
fn a_signal_that_ends_the_command_is_128_plus_its_number() {
    // PID 1 ignores signals it has no handler for, so a child dies by it and the shell tells.
    assert_eq!(
        run(&[BUSYBOX, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).code,
        137
    );
}

#[test]
fn the_workload_is_process_one_of_its_own_namespace() {
    let done = run(&[BUSYBOX, "sh", "-c", "echo $$; ls -d /proc/[0-9]* | wc -l"]);
    assert!(done.text().starts_with("1\n"), "{done:?}");
    let processes: u32 = done.text().lines().nth(1).unwrap().trim().parse().unwrap();
    assert!(processes <= 4, "the agent is visible: {done:?}");
}

#[test]
fn standard_input_reaches_the_command_and_ends() {
    let coffer = Coffer::shared();
    let input = vec![b'x'; 3 << 20];
    let done = coffer.run_with_input(["run", "--rm", "-i", BUSYBOX, "wc", "-c"], &input);
    assert_eq!(done.text(), input.len().to_string(), "{done:?}");
    let none = coffer.run_with_input(["run", "--rm", BUSYBOX, "wc", "-c"], b"ignored");
    assert_eq!(none.text(), "0");
}

#[test]
fn large_output_is_exact() {
    let script = "seq 1 300000";
    let done = run(&[BUSYBOX, "sh", "-c", script]);
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout == expected.as_bytes(),
        "{} bytes of {}",
        done.stdout.len(),
        expected.len()
    );
}

#[test]
fn environment_comes_from_image_flags_and_files_in_that_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    std::fs::write(&file, "# comment\nFROM_FILE=1\nBOTH=file\n").unwrap();
    let file = file.to_str().unwrap();
    let args = [
        "-e",
        "A=1",
        "-e",
        "BOTH=flag",
        "--env-file",
        file,
        BUSYBOX,
        "env",
    ];
    let text = run(&args).text();
    for line in ["A=1", "FROM_FILE=1", "BOTH=flag", "HOME=/root"] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
    assert!(text.contains("PATH="), "{text}");
}

#[test]
fn a_variable_without_a_value_comes_from_the_caller() {
    let coffer = Coffer::shared();
    let mut command = coffer.command([
        "run",
        "--rm",
        "-e",
        "MINE",
        BUSYBOX,
        "sh",
        "-c",
        "echo $MINE",
    ]);
    let output = command.env("MINE", "here").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "here");
}

#[test]
fn user_group_and_supplementary_groups_come_from_the_image() {
    let id = |user: &str| run(&["-u", user, BUSYBOX, "id"]).text();
    assert_eq!(
        id("app"),
        "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"
    );
    assert!(id("1234").starts_with("uid=1234 gid=0"), "{}", id("1234"));
    assert!(id("app:extra").starts_with("uid=1000(app) gid=2000(extra)"));
    assert!(id("7:8").starts_with("uid=7 gid=8"));
    let unknown = run(&["-u", "nobody-here", BUSYBOX, "id"]);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.stderr.contains("nobody-here"), "{unknown:?}");
}

#[test]
fn the_working_directory_is_made_when_it_is_not_there() {
    assert_eq!(
        run(&["-w", "/made/here", BUSYBOX, "pwd"]).text(),
        "/made/here"
    );
    assert_eq!(run(&[BUSYBOX, "pwd"]).text(), "/");
}

#[test]
fn the_entrypoint_can_be_replaced_and_cleared() {
    assert_eq!(
        run(&["--entrypoint", "/bin/echo", BUSYBOX, "a", "b"]).text(),
        "a b"
    );
    assert_eq!(run(&["--entrypoint", "", BUSYBOX, "echo", "c"]).text(), "c");
}

#[test]
fn the_host_name_is_set_and_resolves() {
    let script = "hostname; cat /etc/hostname; grep -c my-host /etc/hosts";
    let done = run(&["--hostname", "my-host", BUSYBOX, "sh", "-c", script]);
    assert_eq!(done.text(), "my-host\nmy-host\n1", "{done:?}");
}

#[test]
fn every_sandbox_has_its_own_machine_id_and_random_numbers() {
    let script = "cat /etc/machine-id; head -c 16 /dev/urandom | md5sum; hostname";
    let one = run(&[BUSYBOX, "sh", "-c", script]).text();
    let two = run(&[BUSYBOX, "sh", "-c", script]).text();
    for (a, b) in one.lines().zip(two.lines()) {
        assert_ne!(a, b);
    }
    assert_eq!(one.lines().next().unwrap().len(), 32);
}

#[test]
fn the_clock_is_right() {
    let host = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs()
    };
    let before = host();
    let guest: u64 = run(&[BUSYBOX, "date", "+%s"]).text().parse().unwrap();
    let after = host();
    assert!(
        (before - 1..=after + 1).contains(&guest),
        "{before}, {guest}, {after}"
    );
}

#[test]
fn devices_and_file_systems_are_there() {
    let script = "
        for f in null zero full random urandom tty ptmx; do test -c /dev/$f || echo no $f; done
        for f in fd stdin stdout stderr; do test -e /dev/$f || echo no $f; done
        mount | grep -q 'on /proc ' || echo no proc
        mount | grep -q 'on /sys ' || echo no sys
        mount | grep -q 'on /dev/shm ' || echo no shm
        mount | grep -q 'on /dev/pts ' || echo no pts
        echo x > /dev/null && echo fine";
    assert_eq!(run(&[BUSYBOX, "sh", "-c", script]).text(), "fine");
}

#[test]
fn writes_stay_in_their_sandbox() {
    let write = run(&[
        BUSYBOX,
        "sh",
        "-c",
        "echo mine > /etc/passwd && cat /etc/passwd",
    ]);
    assert_eq!(write.text(), "mine");
    assert!(
        run(&[BUSYBOX, "cat", "/etc/passwd"])
            .text()
            .starts_with("root:")
    );
}

#[test]
fn a_read_only_root_refuses_writes_but_has_its_mounts() {
    let script = "touch /x 2>/dev/null && echo wrote; echo y > /dev/shm/y && cat /dev/shm/y";
    let done = run(&["--read-only", BUSYBOX, "sh", "-c", script]);
    assert_eq!(done.text(), "y", "{done:?}");
}

#[test]
fn tmpfs_mounts_have_their_size_and_shm_its_own() {
    let script = "df -k /scratch /dev/shm | awk 'NR>1 {print $2}'";
    let done = run(&[
        "--tmpfs",
        "/scratch:size=8m",
        "--shm-size",
        "16m",
        BUSYBOX,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(done.text(), "8192\n16384", "{done:?}");
}

#[test]
fn memory_and_processors_are_as_asked() {
    let script = "grep -c ^processor /proc/cpuinfo; awk '/MemTotal/ {print $2}' /proc/meminfo";
    let done = run(&[
        "--cpus", "1", "--memory", "256m", BUSYBOX, "sh", "-c", script,
    ]);
    let text = done.text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1"), "{done:?}");
    let kib: u64 = lines.next().unwrap().parse().unwrap();
    assert!((150 << 10..=256 << 10).contains(&kib), "{kib}");
}

#[test]
fn a_terminal_is_given_when_asked_for() {
    let coffer = Coffer::shared();
    let refused = coffer.run(["run", "--rm", "-it", BUSYBOX, "tty"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("TTY") || refused.stderr.contains("terminal"),
        "{refused:?}"
    );
    let done = coffer.run([
        "run",
        "--rm",
        "-t",
        BUSYBOX,
        "sh",
        "-c",
        "test -t 1 && echo terminal",
    ]);
    assert_eq!(done.text(), "terminal", "{done:?}");
}

#[test]
fn timings_are_a_time_line_of_the_start() {
    let done = run(&["--timings", BUSYBOX, "true"]);
    assert_eq!(done.code, 0, "{done:?}");
    for stage in ["machine", "guest ready", "identity", "workload"] {
        assert!(done.stderr.contains(stage), "{stage} in {}", done.stderr);
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for flag in [
        ["--device", "/dev/null"],
        ["--volume", "/a:/b"],
        ["-v", "/a:/b"],
        ["--network", "host"],
        ["--gpus", "all"],
    ] {
        let done = run(&[flag[0], flag[1], BUSYBOX, "true"]);
        assert_eq!(done.code, 125, "{flag:?} {done:?}");
    }
    assert_eq!(run(&["--network", "none", BUSYBOX, "true"]).code, 0);
}

#[test]
fn a_poisoned_nsswitch_and_a_rich_environment_harm_nothing() {
    let big = format!("BIG={}", "x".repeat(100_000));
    let done = run(&[
        "-e",
        &big,
        "-u",
        "app",
        BUSYBOX,
        "sh",
        "-c",
        "echo ${#BIG}; id -un",
    ]);
    assert_eq!(done.text(), "100000\napp", "{}", done.stderr);
}

#[test]
fn nothing_of_a_removed_sandbox_is_left() {
    let coffer = Coffer::private();
    assert_eq!(coffer.run(["run", "--rm", BUSYBOX, "true"]).code, 0);
    assert_eq!(coffer.ok(["ps", "-aq"]), "");
    let left = std::fs::read_dir(coffer.home().join("sandboxes"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[test]
fn kernel_backend_and_platform_can_be_named() {
    let coffer = Coffer::shared();
    let info: serde_json::Value = serde_json::from_str(&coffer.ok(["info", "--json"])).unwrap();
    let kernel = info["kernel"].as_str().unwrap();
    let args = [
        "--kernel",
        kernel,
        "--backend",
        "qemu-tcg",
        "--platform",
        "linux/amd64",
    ];
    let done = coffer.run(
        ["run", "--rm"]
            .iter()
            .chain(&args)
            .chain(&[BUSYBOX, "echo", "fine"]),
    );
    assert_eq!(done.text(), "fine", "{done:?}");
}

#[test]
fn the_stop_timeout_is_the_sandboxes_own() {
    let coffer = Coffer::shared();
    let id = coffer.ok([
        "run",
        "-d",
        "--stop-timeout",
        "1",
        BUSYBOX,
        "sleep",
        "100000",
    ]);
    let inspected = coffer.ok(["inspect", &id]);
    let info: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(info[0]["spec"]["stop_timeout_s"], 1);
    coffer.ok(["stop", &id]);
    let inspected = coffer.ok(["inspect", &id]);
    assert!(inspected.contains("137"), "{inspected}");
    coffer.ok(["rm", &id]);
}
