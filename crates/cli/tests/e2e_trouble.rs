//! Memory that runs out and a host's disk that is full: both are said wherever a user looks.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::process::Command;

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    image::busybox_archive,
};
use serde_json::Value;

/// Keeps all that it reads, as one line.
const HOG: [&str; 2] = ["tail", "/dev/zero"];

fn inspect(coffer: &Coffer, name: &str) -> Value {
    let all: Value = serde_json::from_str(&coffer.ok(["inspect", name])).unwrap();
    all[0].clone()
}

#[test]
fn a_process_killed_for_memory_is_told_by_every_command() {
    let coffer = Coffer::shared();
    let name = format!("oom-{}", std::process::id());
    let run = ["run", "-m", "128m", "--name", &name, BUSYBOX];
    let killed = coffer.run(run.iter().chain(&HOG));
    let sandbox = coffer.keep(name.clone());
    assert_eq!(killed.code, 137, "{killed:?}");
    let said =
        |text: &str| text.contains("memory of 128 MiB was full") && text.contains("--memory");
    assert!(said(&killed.stderr), "{killed:?}");
    let waited = coffer.run(["wait", &name]);
    assert_eq!((waited.code, waited.text().as_str()), (0, "137"));
    assert!(said(&waited.stderr), "{waited:?}");
    let listed = coffer.ok(["ps", "-a", "--filter", &format!("name={name}")]);
    assert!(
        listed.contains("Exited (137)") && listed.contains("(out of memory)"),
        "{listed}"
    );
    let info = inspect(&coffer, &name);
    assert_eq!(
        (&info["oom_killed"], &info["exit_code"]),
        (&true.into(), &137.into())
    );
    let state = ["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}"];
    assert_eq!(coffer.ok(state.iter().chain(&[name.as_str()])), "true 137");
    let kernel = coffer.ok(["logs", "--kernel", &name]);
    let line = kernel
        .lines()
        .rfind(|line| line.contains("Killed process"))
        .unwrap();
    assert!(line.contains("(tail)"), "{line}");
    // With the time, in seconds.
    let time = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .unwrap()
        .0;
    assert!(time.trim().parse::<f64>().unwrap() > 0.0, "{line}");
    assert_eq!(
        coffer
            .ok(["logs", "--kernel", "-n", "1", &name])
            .lines()
            .count(),
        1
    );
    drop(sandbox);

    // One that lives on says the same of its execs, and forgets it at the next start.
    let other = format!("{name}-exec");
    coffer.ok([
        "run", "-d", "-m", "128m", "--name", &other, BUSYBOX, "sleep", "1000000",
    ]);
    let sandbox = coffer.keep(other.clone());
    assert_eq!(inspect(&coffer, &other)["oom_killed"], Value::from(false));
    let killed = sandbox.exec(&HOG);
    assert_eq!(killed.code, 137, "{killed:?}");
    assert!(said(&killed.stderr), "{killed:?}");
    let failed = sandbox.exec(&["false"]);
    assert!(failed.stderr.is_empty(), "{failed:?}");
    assert_eq!(inspect(&coffer, &other)["oom_killed"], Value::from(true));
    coffer.ok(["stop", "-t", "0", &other]);
    coffer.ok(["start", &other]);
    assert_eq!(inspect(&coffer, &other)["oom_killed"], Value::from(false));
}

/// What a user does on a host whose disk fills. `$1` has a disk, an image, and an empty directory
/// `store`. Not on a tmpfs: there a read of a hole in a mapped file takes room too.
const FULL_DISK: &str = r#"
set -e
mount -o loop "$1/disk.ext4" "$1/store"
export COFFER_HOME="$1/store/home"
coffer load -q -i "$1/image.tar" > /dev/null
trap 'kill $filler; rm -f "$1/store/filler"; coffer rm -f full > /dev/null 2>&1' EXIT
coffer run -d --name full -m 128m busybox:test sh -c '
    until [ -e /go ]; do usleep 50000; done
    dd if=/dev/zero of=/big bs=1M count=64 2> /dev/null && sync
    exit 7' > /dev/null
# Again and again: a template that is being made takes room and may give it back.
while :; do head -c 1G /dev/zero >> "$1/store/filler" 2> /dev/null || sleep 0.1; done &
filler=$!
until [ "$(stat -f -c %a "$1/store")" -lt 256 ]; do sleep 0.1; done
coffer exec full touch /go
echo "wait: $(coffer wait full 2> "$1/warnings")"
cat "$1/warnings"
coffer ps -a
coffer inspect full
set +e
echo "snapshot: $(coffer snapshot create --disk full 2>&1)"
kill $filler
wait $filler || true
rm "$1/store/filler"
coffer inspect full
"#;

#[test]
fn a_full_host_disk_is_the_reason_and_loses_no_exit_code() {
    let coffer = Coffer::empty();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    std::fs::write(dir.path().join("image.tar"), busybox_archive(BUSYBOX)).unwrap();
    let disk = dir.path().join("disk.ext4");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(600 << 20)
        .unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&disk).status();
    assert!(made.unwrap().success());
    let program = coffer.command(["version"]).get_program().to_owned();
    let bin = std::path::Path::new(&program).parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", FULL_DISK, "sh"])
        .arg(dir.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    if stderr.contains("unshare: ") || stderr.contains("mount: ") {
        cofferdam_testkit::skip(stderr.trim());
        return;
    }
    let wait = stdout.split("\n").next().unwrap_or_default();
    assert_eq!(wait, "wait: 7", "{stdout}{stderr}");
    assert!(
        stdout.contains("warning: The host's disk is full"),
        "{stdout}"
    );
    assert!(
        stdout.contains("Exited (7)") && stdout.contains("(disk error)"),
        "{stdout}"
    );
    let reason = "\"disk_failure\": \"The host's disk is full";
    assert_eq!(stdout.matches(reason).count(), 2, "{stdout}");
    assert_eq!(stdout.matches("\"exit_code\": 7").count(), 2, "{stdout}");
}
