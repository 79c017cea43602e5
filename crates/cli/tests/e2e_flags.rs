//! Flags that are no story of their own: each once, by the real program, where it is to be seen
//! in a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{fs, io::Write, process::Stdio};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    image::busybox,
};

#[test]
fn create_takes_what_run_takes() {
    let coffer = Coffer::shared();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    fs::write(&file, "B=file\n").unwrap();
    let script = "echo $A $B; pwd; id -u; hostname; awk '/^processor/ {n++} END {print n}' \
                  /proc/cpuinfo; df -k /scratch /dev/shm | awk 'NR>1 {print $2}'; \
                  touch /x 2>/dev/null || echo read-only; read line; echo $line";
    let flags = [
        "create",
        "-i",
        "-e",
        "A=flag",
        "--env-file",
        file.to_str().unwrap(),
        "--workdir",
        "/tmp",
        "--user",
        "7:8",
        "--hostname",
        "made",
        "--cpus",
        "1",
        "--memory",
        "256m",
        "--read-only",
        "--tmpfs",
        "/scratch:size=4m",
        "--tmpfs",
        "/tmp",
        "--shm-size",
        "8m",
        "--label",
        "of=flags",
        "--stop-signal",
        "USR1",
        "--stop-timeout",
        "3",
        "--pull",
        "never",
        "--platform",
        "linux/amd64",
        "--network",
        "none",
        "--entrypoint",
        "sh",
        BUSYBOX,
        "-c",
        script,
    ];
    let id = coffer.ok(flags);
    let info = coffer.inspect(&id);
    assert_eq!(info["labels"]["of"], "flags", "{info}");
    let done = coffer.run_with_input(["start", "-a", "-i", &id], b"typed\n");
    let expected = "flag file\n/tmp\n7\nmade\n1\n4096\n8192\nread-only\ntyped";
    assert_eq!(done.text(), expected, "{done:?}");
    coffer.ok(["rm", &id]);
}

#[test]
fn a_created_sandbox_goes_with_its_end_when_asked_to() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["create", "--rm", BUSYBOX, "true"]);
    coffer.ok(["start", "-a", &id]);
    coffer.refused(&["inspect", &id], &[&id[..12]]);
}

#[test]
fn exec_takes_variables_from_a_file() {
    let coffer = Coffer::shared();
    let sandbox = coffer.sleeper();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    fs::write(&file, "A=1\n# none\nB=two words\n").unwrap();
    let file = file.to_str().unwrap();
    let script = ["sh", "-c", "echo $A $B"];
    let exec = ["exec", "--env-file", file, "-e", "A=2", &sandbox.id];
    assert_eq!(coffer.ok(exec.iter().chain(&script)), "2 two words");
}

#[test]
fn attach_without_input_sends_none() {
    let coffer = Coffer::shared();
    let script = "while :; do echo tick; sleep 0.1; done & read line; echo \"got $line\"; kill $!";
    let id = coffer.ok(["run", "-di", BUSYBOX, "sh", "-c", script]);
    let mut silent = coffer
        .command(["attach", "--no-stdin", &id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    silent.stdin.take().unwrap().write_all(b"first\n").unwrap();
    let mut output = silent.stdout.take().unwrap();
    let mut tick = [0; 5];
    std::io::Read::read_exact(&mut output, &mut tick).unwrap();
    // It is attached, and had its input before that; another's is the first that arrives.
    let other = coffer.run_with_input(["attach", &id], b"second\n");
    assert!(other.text().contains("got second"), "{other:?}");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
    assert!(rest.contains("got second"), "{rest}");
    assert!(silent.wait().unwrap().success());
    coffer.ok(["rm", &id]);
}

#[test]
fn logs_end_at_a_time() {
    let coffer = Coffer::shared();
    let id = coffer.ok(["run", "-d", BUSYBOX, "echo", "said"]);
    coffer.ok(["wait", &id]);
    assert_eq!(
        coffer.ok(["logs", "--until", "2100-01-01T00:00:00Z", &id]),
        "said"
    );
    assert_eq!(coffer.ok(["logs", "--until", "1h", &id]), "");
    coffer.ok(["rm", &id]);
}

#[test]
fn images_and_their_history_are_printed_in_the_form_asked_for() {
    let coffer = Coffer::private();
    let inspected = coffer.json(["inspect", "--format", "json", BUSYBOX]);
    let id = inspected[0]["Id"].as_str().unwrap();
    assert!(id.starts_with("sha256:"), "{inspected}");
    let listed = coffer.json(["images", "--format", "json"]);
    assert_eq!(listed[0]["id"], id, "{listed}");
    let row = |args: &[&str]| coffer.ok(args).lines().nth(1).unwrap().to_owned();
    assert!(row(&["images", "--no-trunc"]).contains(id));
    assert!(!row(&["images"]).contains(id));
    assert!(row(&["images", "--digests"]).contains("sha256:"));

    let history = coffer.json(["history", "--json", BUSYBOX]);
    assert_eq!(
        history,
        coffer.json(["history", "--format", "json", BUSYBOX])
    );
    assert_eq!(history[0]["id"], id, "{history}");
    assert!(
        coffer
            .ok(["history", "-q", "--no-trunc", BUSYBOX])
            .contains(id)
    );
    let version = coffer.json(["version", "--json"]);
    assert_eq!(version["name"], "coffer");
}

#[test]
fn load_and_save_take_a_platform_and_a_form() {
    let coffer = Coffer::empty();
    let archive = busybox().archive("one:test");
    let done = coffer.run_with_input(["load", "--json", "--platform", "linux/amd64"], &archive);
    let loaded: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(loaded[0]["platform"]["architecture"], "amd64", "{loaded}");
    let other = coffer.run_with_input(["load", "--platform", "linux/arm64"], &archive);
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.stderr.contains("linux/arm64"), "{other:?}");

    let layout = coffer.home().join("layout.tar");
    let layout = layout.to_str().unwrap();
    coffer.ok(["save", "--format", "oci", "-o", layout, "one:test"]);
    coffer.ok(["rmi", "one:test"]);
    let quiet = coffer.run(["load", "-q", "-i", layout]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""), "{quiet:?}");
    assert_eq!(
        coffer.ok(["run", "--rm", "one:test", "echo", "back"]),
        "back"
    );
}

#[test]
fn what_warms_a_template_runs_as_the_flags_say() {
    let coffer = Coffer::private();
    coffer.ok([
        "template",
        "build",
        "-e",
        "A=flag",
        "-w",
        "/srv",
        "--cpus",
        "1",
        "--memory",
        "256m",
        BUSYBOX,
        "--exec",
        "sh -c 'echo $A; pwd; id -u' > /told",
    ]);
    let run = ["run", "--rm", "--cpus", "1", "--memory", "256m", BUSYBOX];
    let told = coffer.ok(run.iter().chain(&["cat", "/told"]));
    assert_eq!(told, "flag\n/srv\n0");
}
